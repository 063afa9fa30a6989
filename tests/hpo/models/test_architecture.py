from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from hpo.errors import ModelError
from hpo.models import BuiltModel, architecture_of, build_model
from hpo.models.architecture import Description, describe
from search_spaces import TrialConfig

Make = Callable[..., TrialConfig]

MEAN, STD = [0.5, 0.4, 0.3], [0.1, 0.2, 0.3]
GIVEN = {"mean": MEAN, "std": STD}


def described(folder: Path, values: Any, name: str = "config.json") -> Description:
    weights = folder / "model.safetensors"
    weights.touch()
    (folder / name).write_text(values if isinstance(values, str) else json.dumps(values))
    return describe(weights)


LAYOUTS = {
    "timm's hub": {"architecture": "resnet18", "pretrained_cfg": GIVEN},
    "timm's hub, older": {"architecture": "resnet18", **GIVEN},
    "transformers": {"architecture": "resnet18", "image_mean": MEAN, "image_std": STD, "rescale_factor": 1 / 255},
    "OpenCLIP": {"architecture": "resnet18", "preprocess_cfg": GIVEN},
    "a bundle": {"bundle_format": 2, "config": {"backbone": "resnet18"}, "preprocessing": {**GIVEN, "image_size": 96}},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["config.json", "model.json"])
def test_every_layout_is_read(tmp_path: Path, layout: str, name: str) -> None:
    found = described(tmp_path, LAYOUTS[layout], name)
    assert found == Description("resnet18", tuple(MEAN), tuple(STD), tmp_path / name)
    assert architecture_of(tmp_path / "model.safetensors") == architecture_of(tmp_path) == "resnet18"


def test_an_image_processor_beside_the_configuration_is_read(tmp_path: Path) -> None:
    described(tmp_path, {"architecture": "resnet18", "model_type": "timm_wrapper"})
    found = described(tmp_path, {"image_mean": MEAN, "image_std": STD}, "preprocessor_config.json")
    assert found == Description("resnet18", tuple(MEAN), tuple(STD), tmp_path / "preprocessor_config.json")


def test_files_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    described(tmp_path, {"pretrained_cfg": GIVEN})
    with pytest.raises(ModelError, match=r"config\.json gives mean 0\.5, 0\.4, 0\.3 .*preprocessor_config\.json 0\.1"):
        described(tmp_path, {"image_mean": [0.1] * 3, "image_std": STD}, "preprocessor_config.json")


def test_a_file_s_own_description_takes_precedence_over_its_folder_s(tmp_path: Path) -> None:
    described(tmp_path, {"architecture": "vit", **GIVEN})
    own = described(tmp_path, {"architecture": "resnet18", "mean": [0.5] * 3, "std": [0.5] * 3}, "model.json")
    assert (own.architecture, own.mean) == ("resnet18", (0.5,) * 3)


def test_an_image_processor_that_does_not_normalise(tmp_path: Path) -> None:
    found = described(tmp_path, {"do_normalize": False, "image_mean": MEAN, "image_std": STD})
    assert (found.mean, found.std) == ((0.0,) * 3, (1.0,) * 3)


def test_a_file_without_a_description_gives_none(tmp_path: Path) -> None:
    assert described(tmp_path, {"learning_rate": 0.1, "architectures": ["ViTModel"]}) == Description()


BAD = {
    "std of 0": {"mean": MEAN, "std": [0.1, 0.0, 0.1]},
    "std below 0": {"mean": MEAN, "std": [0.1, -0.1, 0.1]},
    "infinite std": '{"mean": [0.5, 0.5, 0.5], "std": [Infinity, 1, 1]}',
    "mean not a number": '{"mean": [NaN, 0.5, 0.5], "std": [1, 1, 1]}',
    "grey levels": {"mean": [123.7, 116.3, 103.5], "std": [58.4, 57.1, 57.4]},
    "std of grey levels": {"mean": MEAN, "std": [58.4, 57.1, 57.4]},
    "mean below 0": {"mean": [-0.1, 0.5, 0.5], "std": STD},
    "four": {"mean": [0.5] * 4, "std": [0.5] * 4},
    "two": {"image_mean": [0.5] * 2, "image_std": [0.5] * 2},
    "none": {"mean": [], "std": []},
    "text": {"mean": "0.5", "std": "0.5"},
    "truth values": {"mean": [True] * 3, "std": [True] * 3},
    "nested": {"mean": [MEAN], "std": [STD]},
    "mean alone": {"mean": MEAN},
    "std alone": {"pretrained_cfg": {"std": STD}},
    "two means": {"pretrained_cfg": GIVEN, "image_mean": [0.1] * 3},
    "not scaled": {**GIVEN, "do_rescale": False},
    "scaled otherwise": {**GIVEN, "rescale_factor": 1 / 127.5},
    "an architecture that is none": {"architecture": {"layers": 3}},
    "a list": [1],
    "no JSON": "{",
    "deep": "[" * 100_000,
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("section", [None, "pretrained_cfg", "preprocessing"])
def test_impossible_descriptions_are_refused_in_one_line(tmp_path: Path, kind: str, section: str | None) -> None:
    values = BAD[kind]
    if section and isinstance(values, dict) and values.keys() <= {"mean", "std"}:
        values = {section: values}
    with pytest.raises(ModelError, match=r"config\.json: not a description .*mend it or remove it") as caught:
        described(tmp_path, values)
    assert "\n" not in str(caught.value)


@pytest.fixture
def load(config: Make, tmp_path: Path) -> Callable[..., BuiltModel]:
    def build(description: dict[str, Any], channels: int = 3) -> BuiltModel:
        weights = timm.create_model("test_efficientnet", num_classes=0, in_chans=channels).state_dict()
        save_file(weights, tmp_path / "model.safetensors")
        (tmp_path / "config.json").write_text(json.dumps(description))
        return build_model(config(backbone="test_efficientnet", pretrained=True, weights=str(tmp_path)), 3)

    return build


def test_the_model_is_normalised_as_its_weights_were_and_says_after_which_file(
    load: Callable[..., BuiltModel],
) -> None:
    built = load({"architecture": "test_efficientnet", "pretrained_cfg": GIVEN})
    assert (built.mean, built.std) == (tuple(MEAN), tuple(STD))
    assert built.weights is not None
    assert built.weights.description == "config.json"
    assert str(built.weights).endswith("mean and std of config.json")
    with pytest.raises(ModelError, match="are of resnet18, but the backbone is test_efficientnet"):
        load({"architecture": "resnet18", "pretrained_cfg": GIVEN})


def test_one_number_is_for_weights_of_grey_images_alone(load: Callable[..., BuiltModel]) -> None:
    built = load({"mean": [0.3], "std": [0.2]}, channels=1)
    assert (built.mean, built.std) == ((0.3,) * 3, (0.2,) * 3)
    with pytest.raises(ModelError, match="but must have three numbers"):
        load({"mean": [0.3], "std": [0.2]})


def test_training_can_start_from_a_bundle_s_folder(config: Make, tmp_path: Path) -> None:
    torch.manual_seed(3)
    whole = build_model(config(), 7).model.state_dict()
    save_file(whole, tmp_path / "model.safetensors")
    bundle = {"bundle_format": 2, "config": {"backbone": config().backbone}, "preprocessing": GIVEN}
    (tmp_path / "config.json").write_text(json.dumps(bundle))
    built = build_model(config(pretrained=True, weights=str(tmp_path)), 3)
    assert (built.mean, built.std) == (tuple(MEAN), tuple(STD))
    assert built.weights is not None
    assert built.weights.loaded == built.weights.total
