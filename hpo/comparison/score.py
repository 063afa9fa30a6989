"""A score with what is known of its uncertainty: from the number of images, and from training under several seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

import numpy as np
import numpy.typing as npt

from hpo.evaluation.metrics import wilson


@dataclass(frozen=True)
class Score:
    """A share of images, of one model or the mean of several that differ in their seed alone."""

    value: float
    interval: tuple[float, float]
    """95 % Wilson interval of `value`: what another sample of as many images might have given."""
    n: float
    """Images; the effective number where some say less than others."""
    spread: float | None = None
    """Sample standard deviation over the seeds; None for one."""

    @classmethod
    def of(cls, value: float, n: float) -> Score:
        """The share `value` of `n` images."""
        low, high = wilson(round(value * n), max(1, round(n)))
        return cls(value, (min(low, value), max(high, value)), n)

    @classmethod
    def pooled(cls, scores: Sequence[Score | None]) -> Score | None:
        """The mean over seeds. The models saw the same images, so the interval is that of one look at these."""
        known = [score for score in scores if score is not None]
        if not known:
            return None
        values = [score.value for score in known]
        one = cls.of(mean(values), mean(score.n for score in known))
        return cls(one.value, one.interval, one.n, stdev(values) if len(values) > 1 else None)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"value": self.value, "interval": list(self.interval), "n": self.n, "spread": self.spread}


def clustered(correct: npt.NDArray[np.bool_], clusters: npt.NDArray[np.int64]) -> Score:
    """Share of `correct` (m,) where rows of one of the `clusters` (m,) show the same original image.

    Copies of one image are right or wrong together, so m of them say less than m images. The interval is Wilson's at
    the effective sample size p (1 - p) / Var(p), the variance being that between clusters (Korn and Graubard 1998,
    Survey Methodology 24:193-201), at least the number of originals and at most m.
    """
    value = float(correct.mean())
    _, places, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    originals = len(sizes)
    residuals = np.bincount(places, weights=correct - value)
    variance = float((residuals**2).sum()) / (originals * max(1, originals - 1) * float(sizes.mean()) ** 2)
    effective = value * (1 - value) / variance if variance > 0 else originals
    return Score.of(value, min(float(len(correct)), max(float(originals), effective)))
