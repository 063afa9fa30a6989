"""Position: how far a run has come, down to the step."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hpo.training.tensor_bytes import prefixed, under


@dataclass
class Position:
    """The epochs that are done, and what the steps of the one under way have come to."""

    epoch: int
    """Epochs done."""
    loss: Tensor
    """Of the epoch under way, summed over the images shown; a float32 scalar on the device, kept to the last bit."""
    steps: int = 0
    """Of the epoch under way."""
    generators: Mapping[str, Tensor] = field(default_factory=dict)
    """States of torch's generators to go on from; none where the epoch begins."""
    learning_rate: float = 0.0
    """Of the head, once the last step is done: validation may be all that is left of the epoch."""
    seconds: dict[str, float] = field(default_factory=lambda: {"training": 0.0, "validation": 0.0})
    """Spent on the epoch, in every process that worked on it."""

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Count the time inside, however it is left, to `part` of the epoch."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] += time.perf_counter() - started

    @classmethod
    def start(cls, epoch: int, device: torch.device) -> Position:
        """After `epoch` epochs, before the first step of the next."""
        return cls(epoch, torch.zeros((), device=device))

    def tensors(self) -> dict[str, Tensor]:
        """The tensors to go on from; none between two epochs."""
        return {"loss": self.loss, **prefixed("generator", self.generators)} if self.steps else {}

    def to_dict(self) -> dict[str, Any]:
        """The rest, JSON-ready."""
        return {
            "epoch": self.epoch,
            "steps": self.steps,
            "learning_rate": self.learning_rate,
            "seconds": dict(self.seconds),
        }

    @classmethod
    def restored(cls, tensors: Mapping[str, Tensor], state: Mapping[str, Any], device: torch.device) -> Position:
        """The position that `tensors()` and `to_dict()` describe, its sums on `device`."""
        loss = tensors.get("loss", torch.zeros(())).to(device, copy=True)
        return cls(**state, loss=loss, generators=under("generator", tensors))
