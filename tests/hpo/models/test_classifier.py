from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hpo.models import build_model
from hpo.models.classifier import Classifier, blocks, freeze, layer_scales, train_blocks, trained_indices
from search_spaces import TrialConfig, UnfreezeFrom

Make = Callable[..., TrialConfig]
BACKBONES = ["mobilenetv2_035", "resnet18", "convnext_atto", "vit_tiny_patch16_224", "efficientnet_b0"]
DEPTHS = [0.0, 0.01, 0.3, 0.5, 0.8, 1.0]


def classifier(config: TrialConfig) -> Classifier:
    return build_model(config, 3).model


def trains(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("backbone", BACKBONES)
def test_blocks_cover_the_backbone_once_and_a_last_norm_is_not_a_block(config: Make, backbone: str) -> None:
    model = classifier(config(backbone=backbone)).backbone
    found = blocks(model)
    parameters = dict(model.named_parameters())
    assert sorted(name for block in found for name in block) == sorted(parameters)
    assert all(any(parameters[name].ndim > 1 for name in block) for block in found)
    assert len(found) >= 9


@pytest.mark.parametrize("backbone", BACKBONES)
def test_trainable_blocks_grow_with_the_depth_from_the_head_down(config: Make, backbone: str) -> None:
    seen = []
    for depth in DEPTHS:
        model = classifier(config(backbone=backbone, unfreeze_depth=depth))
        seen.append(trains(model))
        assert {f"head.{name}" for name, _ in model.head.named_parameters()} <= seen[-1]
    assert all(name.startswith("head.") for name in seen[0])
    assert all(fewer < more for fewer, more in pairwise(seen))
    assert seen[-1] == {name for name, _ in model.named_parameters()}
    assert {f"backbone.{name}" for name in blocks(model.backbone)[-1]} == {
        name for name in seen[1] if name.startswith("backbone.")
    }


@pytest.mark.parametrize("backbone", ["mobilenetv2_035", "resnet18", "efficientnet_b0"])
@pytest.mark.parametrize("depth", [0.0, 0.5])
def test_statistics_of_frozen_norms_do_not_move(config: Make, backbone: str, depth: float) -> None:
    model = classifier(config(backbone=backbone, unfreeze_depth=depth, drop_path=0.2))
    before = {name: value.clone() for name, value in model.state_dict().items() if "running" in name}
    for _ in range(2):
        model.train()
        model(torch.randn(4, 3, 32, 32))
    moved = {name for name, value in model.state_dict().items() if name in before and not value.equal(before[name])}
    trained = {name.rpartition(".")[0] for name in trains(model)}
    assert moved == {name for name in before if name.rpartition(".")[0] in trained}
    assert bool(moved) == (depth > 0)


def test_a_frozen_block_drops_no_path(config: Make) -> None:
    model = classifier(config(backbone="test_convnext", unfreeze_depth=0.0, drop_path=0.9)).train()
    images = torch.randn(2, 3, 32, 32)
    assert model.backbone(images).equal(model.backbone(images))


def test_frozen_blocks_can_train_again(config: Make) -> None:
    model = classifier(config(backbone="resnet18", unfreeze_depth=0.0))
    model.train()
    for depth in (0.5, 1.0, 0.2, 0.0):
        freeze(model, depth)
        expected = classifier(config(backbone="resnet18", unfreeze_depth=depth)).train()
        assert trains(model) == trains(expected)
        modes = [{name: part.training for name, part in each.named_modules()} for each in (model, expected)]
        assert modes[0] == modes[1]


@pytest.mark.parametrize(("start", "expected"), [("stem", [0, 1, 2]), ("middle", [3, 4, 5]), ("head", [6, 7, 8])])
def test_the_first_the_last_or_the_middle_blocks_train_beside_the_head(
    config: Make, start: UnfreezeFrom, expected: list[int]
) -> None:
    model = classifier(config(backbone="resnet18", unfreeze_depth=0.3, unfreeze_from=start)).train()
    found = blocks(model.backbone)
    assert len(found) == 9
    wanted = {f"backbone.{name}" for index in expected for name in found[index]}
    assert {name for name in trains(model) if name.startswith("backbone.")} == wanted
    before = {name: value.clone() for name, value in model.state_dict().items() if "running" in name}
    model(torch.randn(4, 3, 32, 32)).square().sum().backward()
    moved = {name for name, value in model.state_dict().items() if name in before and not value.equal(before[name])}
    assert moved == {name for name in before if name.rpartition(".")[0] in {w.rpartition(".")[0] for w in wanted}}
    graded = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert graded == trains(model), "gradients reach the first blocks through frozen ones, and stop at the lowest"


@given(st.integers(0, 40), st.sampled_from(["head", "stem", "middle"]))
def test_more_blocks_hold_those_that_trained_before(count: int, start: UnfreezeFrom) -> None:
    grown = [set(trained_indices(count, some, start)) for some in range(count + 1)]
    assert [len(some) for some in grown] == list(range(count + 1))
    assert all(fewer < more for fewer, more in pairwise(grown))
    assert grown[-1] == set(range(count))


def test_parameters_fixed_by_the_backbone_stay_fixed_and_in_evaluation_mode(config: Make) -> None:
    backbone = classifier(config(backbone="resnet18")).backbone
    norms = {name for name, part in backbone.named_modules() if isinstance(part, nn.BatchNorm2d)}
    for name in norms:
        backbone.get_submodule(name).requires_grad_(False)
    model = Classifier(backbone, nn.Linear(512, 3))
    for count in (0, 3, len(blocks(backbone))):
        train_blocks(model, count)
        model.train()
        assert not any(model.backbone.get_submodule(name).training for name in norms)
        assert not {name.rpartition(".")[0].removeprefix("backbone.") for name in trains(model)} & norms
    assert trains(model) | model.fixed == {name for name, _ in model.named_parameters()}


def test_layer_scales_fall_by_the_decay_from_block_to_block(config: Make) -> None:
    backbone = classifier(config(backbone="resnet18")).backbone
    scales = layer_scales(backbone, 0.5)
    assert scales["layer4.1.conv1.weight"] == 0.5
    assert scales["layer4.0.conv1.weight"] == 0.25
    assert scales["conv1.weight"] == 0.5**9
    assert set(layer_scales(backbone, 1.0).values()) == {1.0}
