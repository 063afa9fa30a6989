"""Prediction: what a model takes one image for, and whether it is sure enough to say so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hpo.evaluation.calibration import Probabilities


@dataclass(frozen=True)
class Prediction:
    """What the model takes one image for."""

    name: str
    """Path or key of the image; its position where it came as an array."""
    label: str
    index: int
    """Position of `label` in the model's classes."""
    probability: float
    probabilities: dict[str, float]
    """Calibrated, by class name."""
    abstained: bool = False
    """Whether `probability` is below the threshold for the accuracy that was asked for: `label` is then a guess."""


def predictions(
    names: Sequence[str], probabilities: Probabilities, classes: Sequence[str], threshold: float = 0.0
) -> list[Prediction]:
    """Predictions from n names and (n, C) probabilities; those below `threshold` abstain."""

    def one(name: str, row: list[float]) -> Prediction:
        index = max(range(len(row)), key=row.__getitem__)
        by_class = dict(zip(classes, row, strict=True))
        return Prediction(name, classes[index], index, row[index], by_class, abstained=row[index] < threshold)

    return [one(name, row) for name, row in zip(names, probabilities.tolist(), strict=True)]
