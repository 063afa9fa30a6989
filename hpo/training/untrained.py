"""Untrained: stands in a run where a Learner would, for a classifier that has nothing to train: a baseline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hpo.training.classifier import Classifier
from hpo.training.objective import Objective
from hpo.training.tensor_bytes import prefixed, under


class Untrained:
    """Tells the loss of one batch after another, and changes nothing."""

    learning_rate = 0.0
    micro_batch = None

    def __init__(self, model: Classifier, objective: Objective) -> None:
        self._objective = objective
        self.evaluated = model
        self.updates = 0
        """Batches seen so far."""

    settled = True

    def begin(self, epoch: int) -> None:
        """Every epoch is the same."""

    def training(self) -> None:
        """A baseline is evaluated, not trained."""
        self.evaluated.eval()

    def learn(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of a batch, a scalar on the device."""
        with torch.no_grad():
            loss = self._objective(inputs, targets)
        self.updates += 1
        return loss

    def epoch_scored(self, score: float) -> None:
        """The score changes nothing."""

    def tensors(self) -> dict[str, Tensor]:
        """All tensors to go on from: what was learnt of the labels."""
        return prefixed("model", self.evaluated.state_dict())

    def to_dict(self) -> dict[str, Any]:
        """All the rest to go on from, JSON-ready."""
        return {"updates": self.updates}

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Go on from `tensors()` and `to_dict()`."""
        self.evaluated.load_state_dict(under("model", tensors))
        self.updates = int(state["updates"])
