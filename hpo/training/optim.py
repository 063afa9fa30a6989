"""Optimiser: parameter groups, each with its real learning rate, and timm's factory over them.

timm's `lr_scale` is honoured by timm's own schedulers only, so the scale of a layer goes into the group's `lr` itself.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.optim import create_optimizer_v2  # type: ignore[attr-defined]
from torch import nn
from torch.nn.utils import clip_grad_norm_

from hpo.training.classifier import Classifier
from hpo.training.freeze import layer_scales
from search_spaces import TrialConfig

FUSED = frozenset({"adamw", "adam", "sgd"})
"""Optimisers that torch has in one fused kernel; the others go tensor list by tensor list."""


def build_optimiser(config: TrialConfig, model: Classifier) -> torch.optim.Optimizer:
    """The optimiser over the parameters of `model` that train; its last group is of the head."""
    kernel: dict[str, Any] = {"fused": True} if config.optimiser in FUSED else {"foreach": True}
    optimiser: torch.optim.Optimizer = create_optimizer_v2(
        parameter_groups(config, model),
        opt=config.optimiser,
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        **kernel,
    )
    return optimiser


def parameter_groups(config: TrialConfig, model: Classifier) -> list[dict[str, Any]]:
    """Groups of equal learning rate and weight decay. Norms, biases and what timm names for it are not decayed."""
    scales = layer_scales(model.backbone, config.layer_decay)
    spared = _never_decayed(model.backbone)
    groups: dict[tuple[float, float], dict[str, Any]] = {}

    def add(parameter: nn.Parameter, learning_rate: float, *, decayed: bool) -> None:
        if not parameter.requires_grad:
            return
        key = (learning_rate, config.weight_decay if decayed and parameter.ndim > 1 else 0.0)
        group = groups.setdefault(key, {"params": [], "lr": key[0], "weight_decay": key[1]})
        group["params"].append(parameter)

    for name, parameter in model.backbone.named_parameters():
        rate = config.learning_rate * config.backbone_lr_ratio * scales[name]
        add(parameter, rate, decayed=name not in spared)
    for parameter in model.head.parameters():
        add(parameter, config.learning_rate, decayed=True)
    return list(groups.values())


def carry_over(before: torch.optim.Optimizer, now: torch.optim.Optimizer) -> None:
    """Give `now` the state (moments, counts) that `before` has of the parameters of both.

    Parameters that are new in `now` begin without any, and all of them do where the two are of different kinds.
    """
    if type(before) is not type(now):
        return
    for parameter in (parameter for group in now.param_groups for parameter in group["params"]):
        if parameter in before.state:
            now.state[parameter] = before.state[parameter]
        elif isinstance(now, torch.optim.SGD):
            # Its fused kernel wants a buffer of every parameter or of none. With zeros a first step is a first step.
            now.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def clip_gradients(optimiser: torch.optim.Optimizer, largest: float) -> None:
    """Scale all gradients together so that their norm is `largest` at most; 0 leaves them as they are."""
    if largest:
        clip_grad_norm_((p for group in optimiser.param_groups for p in group["params"]), largest, foreach=True)


def _never_decayed(backbone: nn.Module) -> set[str]:
    """What timm says is not to be decayed besides norms and biases: class tokens, position embeddings."""
    names = getattr(backbone, "no_weight_decay", None)
    return set(names()) if names is not None else set()
