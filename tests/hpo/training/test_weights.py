from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from hpo.errors import ModelError
from hpo.training import BuiltModel, architecture_of, build_model, check_trainable, weights_digest
from search_spaces import TrialConfig

Make = Callable[..., TrialConfig]


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    """Weights of the whole network, classifier included."""
    torch.manual_seed(5)
    return timm.create_model("test_resnet", num_classes=10).state_dict()


@pytest.fixture
def load(config: Make) -> Callable[..., BuiltModel]:
    def build(path: Path, **changes: Any) -> BuiltModel:
        return build_model(config(pretrained=True, weights=str(path), **changes), 3)

    return build


def same(built: BuiltModel, tensors: dict[str, Tensor]) -> bool:
    return all(value.equal(tensors[name]) for name, value in built.model.backbone.state_dict().items())


Load = Callable[..., BuiltModel]


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "backbone.", "module.model."])
def test_safetensors_load_whatever_a_wrapper_put_before_the_names(
    tensors: dict[str, Tensor], load: Load, tmp_path: Path, prefix: str
) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({prefix + name: value for name, value in tensors.items()}, path)
    built = load(path)
    assert same(built, tensors)
    report = built.weights
    assert report is not None
    assert (report.loaded, report.missing, report.mismatched, report.unexpected) == (report.total, 0, 0, 0)
    assert report.digest == weights_digest(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert built.origin == str(path)
    assert f"{report.total} of {report.total} tensors loaded" in str(report)
    json.dumps(report.to_dict())


@pytest.mark.parametrize("nest", [(), ("state_dict",), ("model", "state_dict")])
def test_a_pth_of_tensors_loads_however_deep_they_lie(
    tensors: dict[str, Tensor], load: Load, tmp_path: Path, nest: tuple[str, ...]
) -> None:
    content: dict[str, Any] = {key: value for key, value in tensors.items() if not key.startswith("fc.")}
    for key in reversed(nest):
        content = {key: content, "epoch": 3}
    torch.save(content, tmp_path / "weights.pth")
    assert same(load(tmp_path / "weights.pth"), tensors)


def test_the_head_is_always_new(tensors: dict[str, Tensor], load: Load, tmp_path: Path) -> None:
    save_file(tensors, tmp_path / "weights.safetensors")
    torch.manual_seed(1)
    first = load(tmp_path / "weights.safetensors").model.head[1].weight
    torch.manual_seed(2)
    assert not load(tmp_path / "weights.safetensors").model.head[1].weight.equal(first)


def test_what_did_not_load_is_counted(tensors: dict[str, Tensor], load: Load, tmp_path: Path) -> None:
    changed = {**tensors, "conv1.0.weight": torch.zeros(2), "neck.weight": torch.zeros(1)}
    del changed["bn1.weight"]
    save_file(changed, tmp_path / "weights.safetensors")
    report = load(tmp_path / "weights.safetensors").weights
    assert report is not None
    assert (report.missing, report.mismatched, report.unexpected) == (1, 1, 1)
    assert report.examples == ("conv1.0.weight", "bn1.weight", "neck.weight")


def test_too_little_loaded_is_an_error(tensors: dict[str, Tensor], load: Load, tmp_path: Path) -> None:
    save_file(tensors, tmp_path / "weights.safetensors")
    with pytest.raises(ModelError, match=r"fit \d+ of 100 tensors of resnet18, but must fit 90%"):
        load(tmp_path / "weights.safetensors", backbone="resnet18")


def test_position_embeddings_follow_the_image_size(load: Load, tmp_path: Path) -> None:
    save_file(timm.create_model("test_vit", num_classes=0).state_dict(), tmp_path / "weights.safetensors")
    report = load(tmp_path / "weights.safetensors", backbone="test_vit", image_size=96).weights
    assert report is not None
    assert report.loaded == report.total


def describe(folder: Path, **values: Any) -> Path:
    path = folder / "weights.safetensors"
    path.with_suffix(".json").write_text(json.dumps(values))
    return path


def test_the_description_beside_it_sets_the_normalisation(
    tensors: dict[str, Tensor], load: Load, tmp_path: Path
) -> None:
    settings = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    path = describe(tmp_path, architecture="test_resnet", pretrained_cfg=settings)
    save_file(tensors, path)
    built = load(path)
    assert (built.mean, built.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert architecture_of(path) == "test_resnet"
    assert architecture_of(tmp_path / "other.safetensors") is None


def test_weights_of_another_architecture_are_refused(tensors: dict[str, Tensor], load: Load, tmp_path: Path) -> None:
    path = describe(tmp_path, architecture="resnet50.a1_in1k")
    save_file(tensors, path)
    with pytest.raises(ModelError, match="are of resnet50, but the backbone is test_resnet; give --backbone resnet50"):
        load(path)


@pytest.mark.parametrize("content", ["{", '{"pretrained_cfg": {"mean": [1]}}', "[1]"])
def test_a_description_that_cannot_be_read_is_an_error(
    tensors: dict[str, Tensor], load: Load, tmp_path: Path, content: str
) -> None:
    save_file(tensors, tmp_path / "weights.safetensors")
    (tmp_path / "weights.json").write_text(content)
    with pytest.raises(ModelError, match=r"weights\.json: not a description in timm's hub layout"):
        load(tmp_path / "weights.safetensors")


def test_a_file_that_is_not_there(config: Make, load: Load, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        load(tmp_path / "weights.safetensors")
    with pytest.raises(ModelError, match="cannot be read"):
        weights_digest(tmp_path / "weights.safetensors")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_a_torn_file(tensors: dict[str, Tensor], load: Load, tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"weights{suffix}"
    save_file(tensors, path) if suffix == ".safetensors" else torch.save(tensors, path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ModelError, match="not a whole") as caught:
        load(path)
    assert "\n" not in str(caught.value)


class Payload:
    """What a malicious file would hold."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("run"),))


def test_code_is_refused_and_not_run(
    tensors: dict[str, Tensor], load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": tensors, "args": Payload()}, tmp_path / "weights.pth")
    with pytest.raises(ModelError, match="holds code"):
        load(tmp_path / "weights.pth")
    assert not (tmp_path / "run").exists()


def test_a_file_without_tensors(load: Load, tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "weights.pth")
    with pytest.raises(ModelError, match="no tensors by name"):
        load(tmp_path / "weights.pth")


def test_a_bundle_s_own_weights_can_be_started_from(config: Make, load: Load, tmp_path: Path) -> None:
    whole = build_model(config(), 7).model.state_dict()
    save_file(whole, tmp_path / "model.safetensors")
    report = load(tmp_path / "model.safetensors").weights
    assert report is not None
    assert (report.loaded, report.unexpected) == (report.total, 0)


SHARED = Path(__file__).parents[3].parent / "shared" / "weights"


@pytest.mark.data
@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/weights is not there")
@pytest.mark.parametrize("name", ["mobilenetv2_035", "mobilenetv2_100", "mobilenetv1_100"])
def test_real_weights_fit_wholly(config: Make, name: str) -> None:
    settings = config(backbone=name, pretrained=True, weights=str(SHARED / f"{name}.safetensors"), image_size=96)
    report = check_trainable(settings, 8).weights
    assert report is not None
    assert report.loaded == report.total
    assert build_model(settings, 8).mean == (0.5, 0.5, 0.5)


def test_weights_of_a_larger_architecture_that_fill_ours_are_refused(load: Load, tmp_path: Path) -> None:
    larger = timm.create_model("resnet34").state_dict()  # has every tensor of resnet18 in the same shape
    save_file(larger, tmp_path / "weights.safetensors")
    with pytest.raises(ModelError, match=r"fill resnet18, but hold 80 tensors more .* of a larger architecture"):
        load(tmp_path / "weights.safetensors", backbone="resnet18")
