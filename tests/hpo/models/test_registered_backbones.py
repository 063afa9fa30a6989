"""The networks that this package adds to timm: their layouts, and behaviour like timm's own."""

from __future__ import annotations

from itertools import chain

import pytest
import timm
import torch
from timm.layers import DropPath
from timm.models._efficientnet_blocks import SqueezeExcite
from torch import nn

from hpo.errors import ModelError
from hpo.models import build_model
from hpo.models.built_model import count_parameters
from hpo.models.classifier import blocks
from search_spaces import TrialConfig

FEATURES = {"cnn3": 128, "simplecnn": 512, "efficientnetlite": 112, "deepefficientnet": 80}
NAMES = list(FEATURES)


def network(name: str, size: int = 32, classes: int = 0, **options: object) -> nn.Module:
    if name == "simplecnn":
        options["img_size"] = size
    torch.manual_seed(0)
    built: nn.Module = timm.create_model(name, num_classes=classes, **options)
    return built


def images(count: int, size: int = 32) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("name", "count"),
    [("cnn3", 94_280), ("simplecnn", 26_083_144), ("efficientnetlite", 546_536), ("deepefficientnet", 306_010)],
)
def test_parameters_with_eight_classes_at_224_pixels(name: str, count: int) -> None:
    config = TrialConfig(backbone=name, pretrained=False, image_size=224)
    with torch.device("meta"):
        model = build_model(config, 8).model
    assert count_parameters(model) == (count, count)


@pytest.mark.parametrize("size", [32, 45, 96])
@pytest.mark.parametrize("name", NAMES)
def test_images_of_any_size_become_pooled_features(name: str, size: int) -> None:
    model = network(name, size).eval()
    features = model(images(2, size))
    assert features.shape == (2, FEATURES[name])
    assert model.num_features == FEATURES[name]
    assert features.std() > 0


@pytest.mark.parametrize("name", NAMES)
def test_the_classifier_can_be_exchanged_as_in_timm(name: str) -> None:
    model = network(name, classes=5).eval()
    assert timm.is_model(name)
    assert model(images(1)).shape == (1, 5)
    assert model.get_classifier().out_features == 5
    model.reset_classifier(0)
    assert model(images(1)).shape == (1, FEATURES[name])
    maps = model.forward_features(images(1))
    assert torch.equal(model.forward_head(maps, pre_logits=True), model(images(1)))


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_network_and_a_state_dict_all_of_it(name: str) -> None:
    one, again, other = (network(name).eval() for _ in range(3))
    assert torch.equal(one(images(3)), again(images(3)))
    with torch.no_grad():
        next(other.parameters()).add_(1)
    assert not torch.equal(other(images(3)), one(images(3)))
    other.load_state_dict(one.state_dict())
    assert torch.equal(other(images(3)), one(images(3)))


@pytest.mark.parametrize("name", NAMES)
def test_layout_in_memory_precision_and_batch_change_little(name: str) -> None:
    model = network(name).eval()
    expected = model(images(3))
    scale = expected.abs().max()
    assert (model(images(3)[:1]) - expected[:1]).abs().max() < 1e-5 * scale
    last = model.to(memory_format=torch.channels_last)(images(3).contiguous(memory_format=torch.channels_last))
    assert (last - expected).abs().max() < 1e-5 * scale
    with torch.autocast("cpu", torch.bfloat16):
        low = model(images(3))
    assert (low - expected).abs().max() < 0.05 * scale


@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("cnn3", "stages.2."),
        ("simplecnn", "dense."),
        ("efficientnetlite", "blocks.4.2."),
        ("deepefficientnet", "blocks.3.2."),
    ],
)
def test_the_last_block_is_the_one_that_unfreezes_first(name: str, last: str) -> None:
    found = blocks(network(name))
    assert all(parameter.startswith(last) for parameter in found[-1])
    assert sorted(chain(*found)) == sorted(key for key, _ in network(name).named_parameters())
    depth = 1 / len(found)
    config = TrialConfig(backbone=name, pretrained=False, image_size=32, unfreeze_depth=depth)
    trained = [key for key, value in build_model(config, 3).model.backbone.named_parameters() if value.requires_grad]
    assert trained == found[-1]


def test_deepefficientnet_is_the_first_four_stages_of_efficientnet_b0() -> None:
    whole, ours = timm.create_model("efficientnet_b0"), network("deepefficientnet")
    assert ours.conv_stem.weight.shape == whole.conv_stem.weight.shape
    for stage in range(4):
        shapes = [
            {name: value.shape for name, value in model.blocks[stage].named_parameters() if ".se." not in name}
            for model in (whole, ours)
        ]
        assert shapes[0] == shapes[1]
    excited = [any(isinstance(m, SqueezeExcite) for m in stage.modules()) for stage in ours.blocks]
    assert excited == [False, False, True, True]


def test_deepefficientnet_has_the_maps_that_its_authors_draw() -> None:
    with torch.device("meta"):
        model, shapes = network("deepefficientnet"), []
        for module in (model.conv_stem, *model.blocks):
            module.register_forward_hook(lambda _module, _inputs, output: shapes.append(tuple(output.shape[1:])))
        model(torch.zeros(1, 3, 224, 224))
    assert shapes == [(32, 112, 112), (16, 112, 112), (24, 56, 56), (40, 28, 28), (80, 14, 14)]


@pytest.mark.parametrize("name", ["efficientnetlite", "deepefficientnet"])
def test_stochastic_depth_grows_along_the_network(name: str) -> None:
    rates = [m.drop_prob for m in network(name, drop_path_rate=0.2).modules() if isinstance(m, DropPath)]
    assert rates == sorted(rates)
    assert 0.1 < rates[-1] < 0.2
    assert not [m for m in network(name).modules() if isinstance(m, DropPath)]


def test_stochastic_depth_is_left_out_where_there_is_no_branch_to_drop() -> None:
    config = TrialConfig(backbone="cnn3", pretrained=False, image_size=32, drop_path=0.2)
    assert build_model(config, 3).features == 128


@pytest.mark.parametrize("name", NAMES)
def test_missing_pretrained_weights_are_an_error_with_a_remedy(name: str) -> None:
    with pytest.raises(ModelError, match=rf"no pretrained weights of {name}: .*--set pretrained=false"):
        build_model(TrialConfig(backbone=name, image_size=32), 3)
