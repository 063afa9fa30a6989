"""Exchange of BatchNorm: what is kept, what is independent of the batch, and what never changes."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from timm.layers import GroupNormAct, LayerNormAct2d
from torch import nn

from hpo.errors import ModelError
from hpo.models import build_model
from hpo.models.normalisation import FrozenBatchNorm, channels_of_a_group, exchange_normalisation
from hpo.training.gradients import BatchStatistics
from search_spaces import TrialConfig

KINDS = {"frozen-batch": FrozenBatchNorm, "group": GroupNormAct, "layer": LayerNormAct2d}
# BatchNorms that stand alone, and timm's with their activations.
BACKBONES = ["test_resnet", "test_efficientnet", "deepefficientnet"]


def uneven(network: nn.Module) -> nn.Module:
    """Give the BatchNorms of `network` distinct values, so that mistakes show; return it."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                values.copy_(0.5 + torch.rand(values.shape, generator=generator))
    return network


def backbone(name: str) -> nn.Module:
    torch.manual_seed(0)
    return uneven(timm.create_model(name, num_classes=0))


def built(normalisation: str, **changes: object) -> nn.Module:
    """Return a classifier with random weights, or with `weights` if they are among the changes."""
    values = {"backbone": "test_resnet", "image_size": 32, **changes, "normalisation": normalisation}
    torch.manual_seed(0)
    return build_model(TrialConfig.from_dict(values), 3, initialise="weights" in changes).model


def images(count: int) -> torch.Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def norms(network: nn.Module) -> dict[str, nn.Module]:
    kinds = (nn.BatchNorm2d, *KINDS.values())
    return {path: module for path, module in network.named_modules() if isinstance(module, kinds)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", BACKBONES)
def test_every_batchnorm_is_replaced_and_its_scale_shift_and_activation_stay(name: str, kind: str) -> None:
    before, network = norms(backbone(name)), backbone(name)
    exchange_normalisation(network, kind)
    after = norms(network)
    assert after.keys() == before.keys()
    for path, norm in after.items():
        was = before[path]
        assert type(norm) is KINDS[kind]
        assert torch.equal(norm.weight, was.weight)
        assert torch.equal(norm.bias, was.bias)
        assert norm.eps == was.eps
        assert type(norm.act) is type(getattr(was, "act", nn.Identity()))
    assert network.eval()(images(2)).shape == (2, network.num_features)


@pytest.mark.parametrize("kind", ["group", "layer"])
@pytest.mark.parametrize("name", BACKBONES)
def test_parameters_keep_their_names_and_shapes(name: str, kind: str) -> None:
    network = backbone(name)
    exchange_normalisation(network, kind)
    shapes = {path: value.shape for path, value in network.named_parameters()}
    assert shapes == {path: value.shape for path, value in backbone(name).named_parameters()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", BACKBONES)
def test_in_training_an_image_does_not_depend_on_the_others(name: str, kind: str) -> None:
    network = backbone(name)
    exchange_normalisation(network, kind)
    network.train()
    together, alone = network(images(4)), network(images(4)[:1])
    assert (together[:1] - alone).abs().max() < 1e-4 * together.abs().max()


@pytest.mark.parametrize("name", BACKBONES)
def test_a_frozen_batchnorm_computes_what_the_batchnorm_did_in_evaluation_mode(name: str) -> None:
    native, frozen = backbone(name).eval(), backbone(name)
    exchange_normalisation(frozen, "frozen-batch")
    frozen.train()
    expected = native(images(3))
    assert (frozen(images(3)) - expected).abs().max() < 1e-5 * expected.abs().max()
    with torch.autocast("cpu", torch.bfloat16):
        maps = [frozen.forward_features(images(3)), native.forward_features(images(3))]
    assert maps[0].dtype == maps[1].dtype


def test_training_never_moves_a_frozen_batchnorm_and_moves_the_rest() -> None:
    model = built("frozen-batch").train()
    uneven_values = {key: value.clone() for key, value in model.state_dict().items()}
    optimiser = torch.optim.AdamW(model.parameters(), 0.01, weight_decay=0.1)
    for _ in range(3):
        optimiser.zero_grad()
        model(images(4)).square().mean().backward()
        optimiser.step()
    frozen = {f"backbone.{path}.{key}" for path, norm in norms(model.backbone).items() for key in norm.state_dict()}
    moved = {key for key, value in model.state_dict().items() if not torch.equal(value, uneven_values[key])}
    assert len(frozen) == 4 * len(norms(model.backbone))
    assert moved == uneven_values.keys() - frozen
    assert not BatchStatistics(model).present


@pytest.mark.parametrize("depth", [0.0, 0.5, 1.0])
def test_a_frozen_batchnorm_stays_fixed_at_any_unfreeze_depth(depth: float) -> None:
    model = built("frozen-batch", unfreeze_depth=depth).train()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    assert not any(norm.training for norm in norms(model).values())
    assert not [value for norm in norms(model).values() for value in norm.parameters()]


@pytest.mark.parametrize("kind", KINDS)
def test_a_stored_model_is_built_again_from_its_configuration(kind: str) -> None:
    model = uneven(built(kind)).eval()
    config = TrialConfig(backbone="test_resnet", image_size=32, normalisation=kind)
    again = build_model(config, 3, initialise=False).model.eval()
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(images(2)), model(images(2)))


def test_weights_are_loaded_before_the_exchange(tmp_path: Path) -> None:
    native = backbone("test_resnet")
    save_file(native.state_dict(), tmp_path / "weights.safetensors")
    model = built("frozen-batch", pretrained=True, weights=str(tmp_path / "weights.safetensors"))
    assert torch.equal(model.backbone.eval()(images(2)), native.eval()(images(2)))


@pytest.mark.parametrize("kind", KINDS)
def test_normalisation_over_features_without_positions(kind: str) -> None:
    network = nn.Sequential(nn.Linear(48, 64), nn.BatchNorm1d(64))
    exchange_normalisation(network, kind)
    assert network.train()(torch.randn(1, 48)).shape == (1, 64)


@pytest.mark.parametrize("kind", KINDS)
def test_without_scale_and_shift_there_are_none_afterwards(kind: str) -> None:
    network = nn.Sequential(nn.BatchNorm2d(8, affine=False))
    exchange_normalisation(network, kind)
    assert not list(network.parameters())
    assert network.train()(images(1)[:, :1].expand(-1, 8, -1, -1)).shape == (1, 8, 32, 32)


@pytest.mark.parametrize("kind", KINDS)
def test_a_backbone_without_batchnorm_must_be_native(kind: str) -> None:
    with pytest.raises(ModelError, match=f"normalisation is '{kind}', but .* no BatchNorm, so it must be native"):
        built(kind, backbone="test_vit")


@pytest.mark.parametrize(
    ("channels", "size"), [(8, 8), (16, 16), (24, 24), (32, 32), (37, 37), (48, 24), (64, 32), (144, 36), (1280, 32)]
)
def test_a_group_has_about_32_channels(channels: int, size: int) -> None:
    assert channels_of_a_group(channels) == size


@settings(max_examples=50)
@given(st.integers(1, 4096))
def test_groups_divide_the_channels(channels: int) -> None:
    size = channels_of_a_group(channels)
    assert channels % size == 0
    assert size == channels or channels > 32
