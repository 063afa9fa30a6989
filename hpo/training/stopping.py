"""Reasons to end a run or lower its rate: collapse to the level of chance, and a plateau of the score.

Pruners miss a collapse, since a run that starts well and then collapses keeps the best value that it reported.
`Guard` and `Plateau` are values: each epoch returns the next one, so they are stored and restored as plain JSON.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

SINGLE_CLASS_EPOCHS = 2
"""Consecutive epochs with one single predicted class that count as collapse."""

BETTER = 1e-4
"""Least gain in score that counts as better."""


@dataclass(frozen=True)
class Guard:
    """State of the guard against collapse between two epochs."""

    best: float = 0.0
    """Best validation accuracy so far."""
    single: int = 0
    """Consecutive epochs in which the model predicted one class only."""

    def after(self, accuracy: float, *, predicted: int) -> Guard:
        """Return the guard after an epoch with predictions of `predicted` different classes."""
        return replace(self, best=max(self.best, accuracy), single=self.single + 1 if predicted == 1 else 0)

    def to_dict(self) -> dict[str, float]:
        """Return JSON-ready values; `Guard(**values)` restores them."""
        return asdict(self)


@dataclass(frozen=True)
class Chance:
    """Accuracy on the validation part that needs no information from the images."""

    majority: float
    """Accuracy of always predicting the largest class."""
    images: int

    @property
    def clearly_above(self) -> float:
        """Accuracy beyond chance: above the majority by a quarter of the way to 1, and by three standard errors."""
        error = math.sqrt(self.majority * (1 - self.majority) / max(self.images, 1))
        return self.majority + max(0.25 * (1 - self.majority), 3 * error)

    @property
    def level(self) -> float:
        """Accuracy up to which a model counts as no better than chance."""
        return self.majority + 0.02 * (1 - self.majority)


def collapse_reason(guard: Guard, chance: Chance, accuracy: float) -> str | None:
    """Return in words why the run has collapsed, or None if it has not; `guard` is the one after this epoch."""
    # A run that was never clearly above chance may be a slow starter: it continues.
    if guard.best < chance.clearly_above:
        return None
    if accuracy <= chance.level:
        return (
            f"collapsed: validation accuracy fell from {guard.best:.3f} to {accuracy:.3f}, "
            f"the level of chance ({chance.majority:.3f})"
        )
    if guard.single >= SINGLE_CLASS_EPOCHS:
        return f"collapsed: one single class predicted for {guard.single} epochs, after an accuracy of {guard.best:.3f}"
    return None


@dataclass(frozen=True)
class Plateau:
    """Epochs without a better score, for the plateau schedule and early stopping."""

    best: float | None = None
    """Best score so far; None before the first epoch."""
    epochs: int = 0
    """Consecutive epochs without a better score."""

    def after(self, score: float) -> Plateau:
        """Return the plateau after an epoch with this score; larger is better."""
        if self.best is None or score > self.best + BETTER:
            return Plateau(score)
        return replace(self, epochs=self.epochs + 1)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Plateau:
        """Return the plateau that `to_dict` wrote."""
        return cls(**values)
