"""Classifier: a timm backbone and a head in one module, and which of its blocks train.

The blocks of a backbone are timm's own groups (`group_matcher`), from the stem to the last. A frozen block takes no
gradient, has no optimiser state, and stays in evaluation mode: its BatchNorm statistics do not move and its dropout
and drop path are off. Below every block that trains its output therefore depends on the image alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Self

import numpy as np
import numpy.typing as npt
from timm.models import group_parameters
from torch import Tensor, nn

from search_spaces import TrialConfig, UnfreezeFrom

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}


class Classifier(nn.Module):
    """(b, 3, S, S) normalised float images -> (b, classes) logits."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.frozen: tuple[nn.Module, ...] = ()
        """Modules without a trainable parameter; `train()` leaves them in evaluation mode."""
        self.fixed = frozenset(name for name, parameter in self.named_parameters() if not parameter.requires_grad)
        """Names of the parameters that never train, at any unfreeze depth: timm created them so."""

    @property
    def learns(self) -> bool:
        """Whether the classifier has parameters to train; a baseline has none."""
        return any(name not in self.fixed for name, _ in self.named_parameters())

    def learn_priors(self, labels: npt.NDArray[np.int64]) -> None:
        """Learn class frequencies from the labels (n,) of the training part; only a baseline does."""

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (b, classes)."""
        logits: Tensor = self.head(self.backbone(images))
        return logits

    def train(self, mode: bool = True) -> Self:
        """Set the training mode of all modules except the frozen ones, which stay in evaluation mode."""
        super().train(mode)
        for module in self.frozen:
            module.eval()
        return self


def build_head(config: TrialConfig, features: int, classes: int) -> nn.Sequential:
    """Build `head_layers` hidden layers and the last one, each after dropout: (b, features) -> (b, classes)."""
    layers: list[nn.Module] = []
    for _ in range(config.head_layers):
        layers += [
            nn.Dropout(config.dropout),
            nn.Linear(features, config.head_units),
            ACTIVATIONS[config.head_activation](),
        ]
        features = config.head_units
    return nn.Sequential(*layers, nn.Dropout(config.dropout), nn.Linear(features, classes))


def freeze(model: Classifier, depth: float, start: UnfreezeFrom = "head") -> None:
    """Make the head and a share `depth` (0..1) of the backbone's blocks trainable, and freeze the rest.

    `start` says which blocks: those next to the head, the first ones, or those in the middle.
    """
    train_blocks(model, trainable_blocks(len(blocks(model.backbone)), depth), start)


def trainable_blocks(count: int, depth: float) -> int:
    """Return how many of `count` blocks train at an unfreeze depth of 0..1: 0 at 0, at least 1 above 0, all at 1."""
    return math.ceil(depth * count - 1e-9)


def train_blocks(model: Classifier, count: int, start: UnfreezeFrom = "head") -> None:
    """Make the head and `count` blocks of the backbone trainable, counted from `start`, and freeze the rest.

    Parameters in `Classifier.fixed` stay frozen in any case.
    """
    groups = blocks(model.backbone)
    trained = {name for index in trained_indices(len(groups), count, start) for name in groups[index]}
    for name, parameter in model.backbone.named_parameters():
        parameter.requires_grad_(name in trained and f"backbone.{name}" not in model.fixed)
    model.frozen = tuple(_frozen_roots(model))
    model.train(model.training)


def trained_indices(blocks: int, count: int, start: UnfreezeFrom) -> range:
    """Return the positions, from the stem, of the `count` of `blocks` blocks that train.

    The blocks for a smaller count are always among those for a larger one, so gradual unfreezing only adds blocks.
    """
    first = {"head": blocks - count, "stem": 0, "middle": (blocks - count) // 2}[start]
    return range(first, first + count)


def _frozen_roots(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the outermost modules whose parameters are all frozen; modules without parameters are left out."""
    parameters = list(module.parameters())
    if parameters and not any(parameter.requires_grad for parameter in parameters):
        yield module
        return
    for child in module.children():
        yield from _frozen_roots(child)


def blocks(backbone: nn.Module) -> list[list[str]]:
    """Return the parameter names of each block, stem first. A final norm belongs to the block before it."""
    merged: list[list[str]] = []
    parameters = dict(backbone.named_parameters())
    for names in _groups(backbone):
        if merged and all(parameters[name].ndim <= 1 for name in names):
            merged[-1].extend(names)
        else:
            merged.append(names)
    return merged


def _groups(backbone: nn.Module) -> list[list[str]]:
    """Return timm's groups of parameter names; for a model that declares none, those of its direct children."""
    matcher = getattr(backbone, "group_matcher", None)
    if matcher is not None:
        return list(group_parameters(backbone, matcher(coarse=False)).values())
    children: dict[str, list[str]] = {}
    for name, _ in backbone.named_parameters():
        children.setdefault(name.partition(".")[0], []).append(name)
    return list(children.values())


def layer_scales(backbone: nn.Module, decay: float) -> dict[str, float]:
    """Return a factor on the learning rate per parameter: decay^1 in the last block, one more power per block below.

    With the head at decay^0 these are the scales of BEiT (Bao et al. 2021, arXiv 2106.08254) and of timm.
    """
    groups = blocks(backbone)
    return {name: decay ** (len(groups) - index) for index, names in enumerate(groups) for name in names}
