"""Classifier: a timm backbone and a head, in one module whose frozen parts stay in evaluation mode."""

from __future__ import annotations

from typing import Self

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from search_spaces import TrialConfig

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
        """Names of the parameters that never train, whatever is unfrozen: the backbone came with them like that."""

    @property
    def learns(self) -> bool:
        """Whether it has parameters to train; a baseline has none."""
        return any(name not in self.fixed for name, _ in self.named_parameters())

    def learn_priors(self, labels: npt.NDArray[np.int64]) -> None:
        """Learn from the labels (n,) of the training part what takes no step: nothing, but for a baseline."""

    def forward(self, images: Tensor) -> Tensor:
        """Logits (b, classes)."""
        logits: Tensor = self.head(self.backbone(images))
        return logits

    def train(self, mode: bool = True) -> Self:
        """Training mode for all but the frozen modules."""
        super().train(mode)
        for module in self.frozen:
            module.eval()
        return self


def build_head(config: TrialConfig, features: int, classes: int) -> nn.Sequential:
    """`head_layers` hidden layers and the last one, each behind dropout: (b, features) -> (b, classes)."""
    layers: list[nn.Module] = []
    for _ in range(config.head_layers):
        layers += [
            nn.Dropout(config.dropout),
            nn.Linear(features, config.head_units),
            ACTIVATIONS[config.head_activation](),
        ]
        features = config.head_units
    return nn.Sequential(*layers, nn.Dropout(config.dropout), nn.Linear(features, classes))
