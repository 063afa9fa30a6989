from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from hpo.models import build_model
from hpo.training.optimisation import build_optimiser, clip_gradients, parameter_groups
from search_spaces import TrialConfig

Make = Callable[..., TrialConfig]
RATES = {"adamw": 1e-3, "rmsprop": 1e-3, "lion": 3e-4, "sgd": 3e-2, "adam": 1e-3, "nadam": 1e-3}


def groups_by_name(config: TrialConfig) -> dict[str, dict[str, float]]:
    model = build_model(config, 3).model
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(p)]: {"lr": group["lr"], "decay": group["weight_decay"]}
        for group in parameter_groups(config, model)
        for p in group["params"]
    }


def test_every_group_holds_its_real_learning_rate(config: Make) -> None:
    settings = config(learning_rate=0.01, backbone_lr_ratio=0.1, layer_decay=0.5)
    found = groups_by_name(settings)
    assert found["head.1.weight"]["lr"] == 0.01
    assert found["backbone.layer4.0.conv1.weight"]["lr"] == pytest.approx(0.01 * 0.1 * 0.5)
    assert found["backbone.conv1.0.weight"]["lr"] < found["backbone.layer1.0.conv1.weight"]["lr"]
    optimiser = build_optimiser(settings, build_model(settings, 3).model)
    assert not any("lr_scale" in group for group in optimiser.param_groups)
    assert {group["lr"] for group in optimiser.param_groups} == {values["lr"] for values in found.values()}


def test_norms_biases_and_tokens_are_not_decayed(config: Make) -> None:
    found = groups_by_name(config(backbone="test_vit", image_size=160, weight_decay=0.1))
    assert found["backbone.blocks.0.mlp.fc1.weight"]["decay"] == 0.1
    assert found["head.1.weight"]["decay"] == 0.1
    spared = [name for name in found if "norm" in name or name.endswith(("bias", "pos_embed", "cls_token"))]
    assert spared
    assert all(found[name]["decay"] == 0 for name in spared)


def test_frozen_parameters_are_in_no_group(config: Make) -> None:
    assert all(name.startswith("head.") for name in groups_by_name(config(unfreeze_depth=0.0)))


@pytest.mark.parametrize("name", RATES)
def test_each_optimiser_lowers_a_loss(config: Make, name: str) -> None:
    settings = config(optimiser=name, learning_rate=RATES[name], weight_decay=1e-4)
    torch.manual_seed(0)
    model = build_model(settings, 3).model
    optimiser = build_optimiser(settings, model)
    images, labels = torch.randn(6, 3, 32, 32), torch.arange(6) % 3
    losses = []
    for _ in range(12):
        loss = nn.functional.cross_entropy(model(images), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert type(optimiser).__name__.lower() == name
    assert losses[-1] < 0.5 * losses[0]


def test_clipping_bounds_the_norm_of_all_gradients_together() -> None:
    parameters = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2, 2))]
    optimiser = torch.optim.SGD(parameters, lr=0.1)
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, 10.0)
    clip_gradients(optimiser, 0.0)
    assert parameters[0].grad[0] == 10
    clip_gradients(optimiser, 1.0)
    norm = torch.cat([parameter.grad.flatten() for parameter in parameters]).norm()
    assert norm.item() == pytest.approx(1.0, rel=1e-4)
