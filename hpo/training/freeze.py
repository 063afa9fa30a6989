"""Which blocks of a backbone train: its blocks are timm's own groups (`group_matcher`), from the stem to the last.

A frozen block takes no gradient, has no optimiser state, and stays in evaluation mode: its BatchNorm statistics do
not move and its dropout and drop path are off, so what it computes depends on the image alone.
"""

from __future__ import annotations

from collections.abc import Iterator

from timm.models import group_parameters
from torch import nn

from hpo.training.classifier import Classifier
from hpo.training.phases import trainable_blocks


def blocks(backbone: nn.Module) -> list[list[str]]:
    """Parameter names of each block, stem first. A last norm belongs to the block beneath it."""
    merged: list[list[str]] = []
    parameters = dict(backbone.named_parameters())
    for names in _groups(backbone):
        if merged and all(parameters[name].ndim <= 1 for name in names):
            merged[-1].extend(names)
        else:
            merged.append(names)
    return merged


def freeze(model: Classifier, depth: float) -> None:
    """Let the head and the upper `depth` (0..1) of the backbone's blocks train, and freeze the rest."""
    train_upper(model, trainable_blocks(len(blocks(model.backbone)), depth))


def train_upper(model: Classifier, count: int) -> None:
    """Let the head and the last `count` blocks of the backbone train, and freeze the rest.

    What was frozen before may train again, but for the parameters that are fixed for good (`Classifier.fixed`).
    """
    groups = blocks(model.backbone)
    frozen = {name for names in groups[: len(groups) - count] for name in names}
    for name, parameter in model.backbone.named_parameters():
        parameter.requires_grad_(name not in frozen and f"backbone.{name}" not in model.fixed)
    model.frozen = tuple(_frozen_roots(model))
    model.train(model.training)


def layer_scales(backbone: nn.Module, decay: float) -> dict[str, float]:
    """Factor on the learning rate for each parameter: decay^1 in the last block, one more power for each block below.

    The head being at decay^0, these are the scales of BEiT (Bao et al. 2021, arXiv 2106.08254) and of timm.
    """
    groups = blocks(backbone)
    return {name: decay ** (len(groups) - index) for index, names in enumerate(groups) for name in names}


def _groups(backbone: nn.Module) -> list[list[str]]:
    """timm's groups; for a model that declares none, its direct children."""
    matcher = getattr(backbone, "group_matcher", None)
    if matcher is not None:
        return list(group_parameters(backbone, matcher(coarse=False)).values())
    children: dict[str, list[str]] = {}
    for name, _ in backbone.named_parameters():
        children.setdefault(name.partition(".")[0], []).append(name)
    return list(children.values())


def _frozen_roots(module: nn.Module) -> Iterator[nn.Module]:
    """The largest modules that have parameters, none of which trains."""
    parameters = list(module.parameters())
    if parameters and not any(parameter.requires_grad for parameter in parameters):
        yield module
        return
    for child in module.children():
        yield from _frozen_roots(child)
