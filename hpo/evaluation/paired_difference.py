"""The difference between the values of two models on the same images, with its standard error.

Two models are mostly right on the same images, so their values vary together, and the difference is known far better
than either. It is a sum over the images of what each contributes (`contributions`), and the squares of these add up to
its variance; for the accuracy that is McNemar's. Images of one unit (copies of one picture, one patient, the altered
forms of an image) are not independent, so what they contribute is added up before it is squared: of N units no
difference is more than √N standard errors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from hpo.data.dataset import Labels
from hpo.evaluation.metrics import ALTERED, AnyLogits, Ratios, combined, scores
from hpo.evaluation.outcomes import contributions

RISK = 0.05
"""The risk that something which helps nothing is taken, over all that is tried."""

Mask = npt.NDArray[np.bool_]


def critical(count: int) -> float:
    """Return the standard errors by which one of `count` trials must gain: one-sided, with Bonferroni's correction."""
    return NormalDist().inv_cdf(1 - RISK / max(1, count))


@dataclass(frozen=True)
class PairedDifference:
    """The values of two models on the same images."""

    before: float
    after: float
    error: float
    """Standard error of the gain."""

    @property
    def gain(self) -> float:
        """The value after, less the one before."""
        return self.after - self.before

    def exceeds(self, errors: float) -> bool:
        """Whether the gain is larger than that many standard errors; a gain of none is not."""
        return self.gain > errors * self.error and self.gain > 0


@dataclass(frozen=True)
class MeasuredImages:
    """The images by which models are compared, clean ones and altered ones, and what their value is."""

    labels: Labels
    """(n,) int64."""
    units: Labels
    """(n,) int64: images with the same number are not independent."""
    altered: Mask
    """(n,) bool."""
    metric: str
    weight: float = 0.0
    """Weight of the altered images in the value; without any the clean ones have it all."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def parts(self) -> list[tuple[str, Mask, float]]:
        """Prefix of the metric's name, rows (n,) bool, and weight of the clean and of the altered images."""
        weight = self.weight if self.altered.any() else 0.0
        parts = [("", ~self.altered, 1 - weight), (ALTERED, self.altered, weight)]
        return [part for part in parts if part[1].any()]

    def figures(self, logits: AnyLogits) -> dict[str, float]:
        """Return the metric of logits (n, C) on the clean images, and with the prefix on the altered ones."""
        return {
            f"{prefix}{self.metric}": scores(self.labels[rows], logits[rows])[self.metric]
            for prefix, rows, _ in self.parts
        }

    def value(self, logits: AnyLogits) -> float:
        """Return the value of logits (n, C), as a trial's."""
        return combined(self.figures(logits), self.metric, self.weight if self.altered.any() else 0.0)

    def difference(self, before: AnyLogits, after: AnyLogits) -> PairedDifference:
        """Return the values of two models with logits (n, C) each, with the standard error of their difference."""
        moved = self._contributions(after) - self._contributions(before)
        _, unit = np.unique(self.units, return_inverse=True)
        error = math.sqrt(float(np.square(np.bincount(unit, weights=moved)).sum()))
        return PairedDifference(self.value(before), self.value(after), error)

    def _contributions(self, logits: AnyLogits) -> Ratios:
        """Return (n,): what each image contributes to the value, which is their sum."""
        found = np.zeros(len(self))
        predicted = logits.argmax(axis=1)
        for _, rows, weight in self.parts:
            found[rows] = weight * contributions(self.labels[rows], predicted[rows], logits.shape[1], self.metric)
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return what is compared, JSON-ready."""
        return {
            "images": int((~self.altered).sum()),
            "altered": int(self.altered.sum()),
            "units": len(np.unique(self.units)),
            "metric": self.metric,
            "weight": self.weight,
        }
