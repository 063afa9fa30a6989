"""The guard against collapse: a run that did better before and now answers at the level of chance ends.

Pruners miss it: a run that starts well and then collapses keeps the best value that it reported. The guard is a value;
each epoch gives the next one, so it is saved and restored as plain JSON.

How long a score has stood still: what the plateau schedule and early stopping wait for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

PATIENCE = 2
"""Epochs running with one single predicted class before that counts as collapse."""


@dataclass(frozen=True)
class Guard:
    """What the guard remembers between two epochs."""

    best: float = 0.0
    """Best validation accuracy so far."""
    single: int = 0
    """Epochs running in which the model predicted one class only."""

    def after(self, accuracy: float, *, predicted: int) -> Guard:
        """The guard after an epoch whose predictions are of `predicted` different classes."""
        return replace(self, best=max(self.best, accuracy), single=self.single + 1 if predicted == 1 else 0)

    def to_dict(self) -> dict[str, float]:
        """JSON-ready values; `Guard(**values)` brings them back."""
        return asdict(self)


@dataclass(frozen=True)
class Chance:
    """What a model reaches on the validation part without looking at the image."""

    majority: float
    """Accuracy of always answering the largest class."""
    images: int

    @property
    def clearly_above(self) -> float:
        """Accuracy not reached by luck: over the majority by a quarter of the way to 1, and three standard errors."""
        error = math.sqrt(self.majority * (1 - self.majority) / max(self.images, 1))
        return self.majority + max(0.25 * (1 - self.majority), 3 * error)

    @property
    def level(self) -> float:
        """Accuracy up to which a model is no better than chance."""
        return self.majority + 0.02 * (1 - self.majority)


def collapse(guard: Guard, chance: Chance, accuracy: float) -> str | None:
    """Why the run has collapsed, in words; None while it has not. `guard` is the one after this epoch.

    A run that was never clearly above chance is a slow starter and stays.
    """
    if guard.best < chance.clearly_above:
        return None
    if accuracy <= chance.level:
        return (
            f"collapsed: validation accuracy fell from {guard.best:.3f} to {accuracy:.3f}, "
            f"the level of chance ({chance.majority:.3f})"
        )
    if guard.single >= PATIENCE:
        return f"collapsed: one single class predicted for {guard.single} epochs, after an accuracy of {guard.best:.3f}"
    return None


BETTER = 1e-4
"""Least gain in score that counts as better."""


@dataclass(frozen=True)
class Plateau:
    """A value: each epoch gives the next one, so it is saved and restored as plain JSON."""

    best: float | None = None
    """Best score so far; None before the first."""
    epochs: int = 0
    """Epochs running without a better one."""

    def after(self, score: float) -> Plateau:
        """The plateau after an epoch with this score; larger is better."""
        if self.best is None or score > self.best + BETTER:
            return Plateau(score)
        return replace(self, epochs=self.epochs + 1)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Plateau:
        """The plateau that `to_dict` wrote."""
        return cls(**values)
