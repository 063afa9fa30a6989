from __future__ import annotations

import argparse
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
from hpo.models import BuiltModel, architecture_of, build_model, check_trainable, weights_digest
from hpo.models.weights import load_weights
from search_spaces import TrialConfig

Make = Callable[..., TrialConfig]


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    """Return weights of the whole network, classifier included."""
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
def test_safetensors_load_with_any_prefix_of_a_wrapper(
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
def test_a_pth_of_tensors_loads_at_any_depth(
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


def test_unneeded_tensors_are_named(tensors: dict[str, Tensor], load: Load, tmp_path: Path) -> None:
    save_file({**tensors, "neck.weight": torch.zeros(1)}, tmp_path / "weights.safetensors")
    report = load(tmp_path / "weights.safetensors").weights
    assert report is not None
    assert (report.loaded, report.missing, report.unexpected) == (report.total, 0, 1)
    assert str(report).endswith("tensors loaded; not needed: neck.weight")


@pytest.mark.parametrize("name", ["conv1.0.weight", "bn1.running_var", "layer4.0.conv2.weight"])
def test_every_tensor_of_the_backbone_must_be_there_in_its_shape(
    tensors: dict[str, Tensor], load: Load, tmp_path: Path, name: str
) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({key: value for key, value in tensors.items() if key != name}, path)
    with pytest.raises(ModelError, match=rf"fit 74 of 75 tensors of test_resnet.*missing: {name}"):
        load(path)
    save_file({**tensors, name: torch.zeros(2)}, path)
    with pytest.raises(ModelError, match=rf"fit 74 of 75 tensors .*{name} is \(2,\), but must be"):
        load(path)


def test_weights_of_another_network_are_an_error(tensors: dict[str, Tensor], load: Load, tmp_path: Path) -> None:
    save_file(tensors, tmp_path / "weights.safetensors")
    with pytest.raises(ModelError, match=r"fit \d+ of 100 tensors of resnet18, but must fit all") as caught:
        load(tmp_path / "weights.safetensors", backbone="resnet18")
    assert "\n" not in str(caught.value)


FAMILIES = ["test_resnet", "test_efficientnet", "test_convnext", "test_vit", "test_byobnet", "cnn3",
            "deepefficientnet", "levit_128s", "pit_ti_224", "densenet121", "squeezenet1_0"]  # fmt: skip
FAMILIES = [name for name in FAMILIES if timm.is_model(name)]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_first_layer_of_grey_images_gives_the_same_features_for_grey_images(
    load: Load, tmp_path: Path, name: str
) -> None:
    torch.manual_seed(1)
    size = 224 if name in ("levit_128s", "pit_ti_224") else 64 if name != "test_vit" else 160
    grey = timm.create_model(name, num_classes=0, in_chans=1).eval()
    save_file(grey.state_dict(), tmp_path / "weights.safetensors")
    built = load(tmp_path / "weights.safetensors", backbone=name, image_size=size)
    assert built.weights is not None
    assert (built.weights.loaded, built.weights.grey) == (built.weights.total, True)
    assert "of grey images: its one channel over three, a third each" in str(built.weights)
    image = torch.rand(2, 1, size, size)
    with torch.inference_mode():
        ours, theirs = built.model.backbone.eval()(image.repeat(1, 3, 1, 1)), grey(image)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["test_nfnet", "resnetv2_50x1_bit"])
def test_a_grey_first_layer_that_standardises_its_weights_is_refused(load: Load, tmp_path: Path, name: str) -> None:
    save_file(timm.create_model(name, num_classes=0, in_chans=1).state_dict(), tmp_path / "weights.safetensors")
    with pytest.raises(ModelError, match=r"weight is \(\d+, 1, \d, \d\), but must be \(\d+, 3, \d, \d\)"):
        load(tmp_path / "weights.safetensors", backbone=name)


@pytest.mark.parametrize("channels", [2, 4, 6])
def test_a_first_layer_of_other_channels_is_refused(load: Load, tmp_path: Path, channels: int) -> None:
    other = timm.create_model("test_efficientnet", in_chans=channels).state_dict()
    save_file(other, tmp_path / "weights.safetensors")
    with pytest.raises(
        ModelError, match=rf"conv_stem.weight is \((\d+), {channels}, 3, 3\), but must be \(\1, 3, 3, 3\)"
    ):
        load(tmp_path / "weights.safetensors", backbone="test_efficientnet")


def test_position_embeddings_are_resized_to_the_image_size(load: Load, tmp_path: Path) -> None:
    save_file(timm.create_model("test_vit", num_classes=0).state_dict(), tmp_path / "weights.safetensors")
    report = load(tmp_path / "weights.safetensors", backbone="test_vit", image_size=96).weights
    assert report is not None
    assert report.loaded == report.total
    assert "adapted: pos_embed, from (1, 101, 64) to (1, 37, 64)" in str(report)


def test_position_embeddings_that_cannot_be_resized_are_refused(load: Load, tmp_path: Path) -> None:
    tensors = timm.create_model("test_vit", num_classes=0).state_dict()
    save_file({**tensors, "pos_embed": torch.zeros(1, 100, 64)}, tmp_path / "weights.safetensors")
    with pytest.raises(ModelError, match=r"pos_embed is \(1, 100, 64\), but must be \(1, 101, 64\)"):
        load(tmp_path / "weights.safetensors", backbone="test_vit", image_size=160)


def test_tables_of_relative_positions_are_resized_to_the_window(load: Load, tmp_path: Path) -> None:
    other = timm.create_model(
        "swin_tiny_patch4_window7_224", num_classes=0, img_size=96, window_size=3, depths=(2, 2, 2, 2)
    )
    ours = timm.create_model("swin_tiny_patch4_window7_224", num_classes=0, depths=(2, 2, 2, 2))
    save_file(other.state_dict(), tmp_path / "weights.safetensors")
    report = load_weights(ours, "swin", tmp_path / "weights.safetensors")
    assert report.loaded == report.total
    assert any("relative_position_bias_table, from (25, 3) to (169, 3)" in note for note in report.adapted)


EMA = ["state_dict_ema", "model_ema", "ema_state_dict", "ema", "ema_model", "modelEma", "swa_state_dict"]


@pytest.mark.parametrize("key", EMA)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_moving_average_is_taken_and_reported(
    tensors: dict[str, Tensor], load: Load, tmp_path: Path, key: str, prefix: str
) -> None:
    moved = {name: value + value.is_floating_point() for name, value in tensors.items()}
    average = {f"{prefix}{name}": value for name, value in moved.items()}
    torch.save({"state_dict": tensors, "optimizer": {"state": {0: {"step": torch.ones(1)}}}, key: average, "epoch": 3},
               tmp_path / "w.pth")  # fmt: skip
    built = load(tmp_path / "w.pth")
    assert same(built, {name: moved[name] for name in built.model.backbone.state_dict()})
    message = str(built.weights)
    assert f"taken from {key}" in message
    assert "(the moving average)" in message
    assert "left out: state_dict, optimizer" in message


def test_other_models_in_the_file_are_reported_by_their_keys(
    tensors: dict[str, Tensor], load: Load, tmp_path: Path
) -> None:
    average = {f"module.{name}": value + value.is_floating_point() for name, value in tensors.items()}
    saved = {"model": tensors, "averaged_model": {**average, "n_averaged": torch.tensor(7)}}
    torch.save(saved, tmp_path / "w.pth")
    message = str(load(tmp_path / "w.pth").weights)
    assert "taken from averaged_model.module (the moving average)" in message
    assert "left out: model, averaged_model.n_averaged" in message


def test_an_average_of_the_parameters_alone_is_left_out_and_reported(
    tensors: dict[str, Tensor], load: Load, tmp_path: Path
) -> None:
    average = {name: value + 1 for name, value in tensors.items() if "running" not in name}
    torch.save({"model": tensors, "ema": average}, tmp_path / "w.pth")
    built = load(tmp_path / "w.pth")
    assert same(built, tensors)
    assert "taken from model; left out: ema" in str(built.weights)


def test_a_checkpoint_of_timm_s_training_script_is_read(tensors: dict[str, Tensor], load: Load, tmp_path: Path) -> None:
    content = {
        "epoch": 3,
        "arch": "test_resnet",
        "state_dict": tensors,
        "args": argparse.Namespace(lr=0.1),
        "metric": 0.9,
    }
    torch.save(content, tmp_path / "w.pth")
    assert same(load(tmp_path / "w.pth"), tensors)


@pytest.mark.parametrize("beside", ["epoch", "conv1.0.weight", "loss", "mean"])
@pytest.mark.parametrize("nest", ["state_dict", "model", "weights"])
def test_a_tensor_beside_the_nest_does_not_hide_it(
    tensors: dict[str, Tensor], load: Load, tmp_path: Path, beside: str, nest: str
) -> None:
    loose = tensors.get(beside, torch.tensor(3.0))
    torch.save({beside: loose, nest: tensors}, tmp_path / "w.pth")
    assert same(load(tmp_path / "w.pth"), tensors)


@pytest.mark.parametrize(
    "others", [("module.",), ("backbone.",), ("model.", "encoder."), ("_orig_mod.",), ("student.", "teacher.")]
)
def test_two_models_in_one_file_are_refused(
    tensors: dict[str, Tensor], load: Load, tmp_path: Path, others: tuple[str, ...]
) -> None:
    prefixes = others if len(others) > 1 else ("", *others)
    content = {f"{prefix}{name}": value + i for i, prefix in enumerate(prefixes) for name, value in tensors.items()}
    save_file(content, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=r"(two|2) models in one file"):
        load(tmp_path / "w.safetensors")


@pytest.mark.parametrize("prefix", ["module.", "backbone.", "model.", "encoder.", "_orig_mod.", "module._orig_mod."])
def test_two_names_that_become_one_are_refused(
    tensors: dict[str, Tensor], load: Load, tmp_path: Path, prefix: str
) -> None:
    save_file({**tensors, f"{prefix}bn1.weight": torch.ones(32) * 7}, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=r"bn1\.weight are both bn1\.weight, with different values"):
        load(tmp_path / "w.safetensors")


def test_one_model_under_two_keys_is_one_model(tensors: dict[str, Tensor], load: Load, tmp_path: Path) -> None:
    torch.save({"model": tensors, "state_dict": tensors}, tmp_path / "w.pth")
    assert same(load(tmp_path / "w.pth"), tensors)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("conv1.0.weight", lambda t: t.clone().fill_(float("nan")), "holds NaN or infinity"),
        ("bn1.bias", lambda t: t.clone().index_fill_(0, torch.tensor(3), float("inf")), "holds NaN or infinity"),
        ("bn1.running_mean", lambda t: t.double() + 1e300, "holds NaN or infinity"),
        ("bn1.running_var", lambda t: t - 5, "is a variance, but holds values below 0"),
        ("bn1.weight", lambda t: t.to(torch.int64), "is of int64, but must be of float32, float16 or bfloat16"),
        ("conv1.0.weight", lambda t: t.to(torch.uint8), "is of uint8, but must be"),
        ("conv1.0.weight", lambda t: t.to(torch.float8_e4m3fn), "is of float8_e4m3fn, but must be"),
    ],
)
def test_impossible_values_are_refused_by_name(
    tensors: dict[str, Tensor], load: Load, tmp_path: Path, name: str, change: Callable[[Tensor], Tensor], words: str
) -> None:
    save_file({**tensors, name: change(tensors[name])}, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=f"{name} {words}"):
        load(tmp_path / "w.safetensors")


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point_types_are_read(
    tensors: dict[str, Tensor], load: Load, tmp_path: Path, kind: torch.dtype
) -> None:
    halves = {name: value.to(kind) if value.is_floating_point() else value for name, value in tensors.items()}
    save_file(halves, tmp_path / "w.safetensors")
    assert same(load(tmp_path / "w.safetensors"), {name: value.float() for name, value in halves.items()})


def test_weights_without_batchnorm_load_under_another_normalisation(config: Make, load: Load, tmp_path: Path) -> None:
    grouped = build_model(config(backbone="test_resnet", normalisation="group"), 3).model.state_dict()
    save_file(grouped, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match="need --set normalisation=group or layer"):
        load(tmp_path / "w.safetensors")
    again = load(tmp_path / "w.safetensors", normalisation="group")
    assert same(again, {name.removeprefix("backbone."): value for name, value in grouped.items()})
    assert "statistics of BatchNorm are missing" in str(again.weights)


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


def test_a_missing_file_is_refused(config: Make, load: Load, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        load(tmp_path / "weights.safetensors")
    with pytest.raises(ModelError, match="cannot be read"):
        weights_digest(tmp_path / "weights.safetensors")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_a_truncated_file_is_refused(
    tensors: dict[str, Tensor], load: Load, tmp_path: Path, suffix: str, share: float
) -> None:
    path = tmp_path / f"weights{suffix}"
    save_file(tensors, path) if suffix == ".safetensors" else torch.save(tensors, path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ModelError, match="not a whole") as caught:
        load(path)
    assert "\n" not in str(caught.value)


class Payload:
    """An object that a malicious file could hold."""

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


def test_a_file_without_tensors_is_refused(load: Load, tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "weights.pth")
    with pytest.raises(ModelError, match="no tensors by name"):
        load(tmp_path / "weights.pth")


def test_training_can_start_from_a_bundle_s_weights(config: Make, load: Load, tmp_path: Path) -> None:
    whole = build_model(config(), 7).model.state_dict()
    save_file(whole, tmp_path / "model.safetensors")
    report = load(tmp_path / "model.safetensors").weights
    assert report is not None
    assert (report.loaded, report.unexpected) == (report.total, 0)


SHARED = Path(__file__).parents[3].parent / "shared" / "weights"


@pytest.mark.data
@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/weights is not there")
@pytest.mark.parametrize("name", ["mobilenetv2_035", "mobilenetv2_100", "mobilenetv1_100"])
def test_real_weights_fill_every_tensor(config: Make, name: str) -> None:
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
