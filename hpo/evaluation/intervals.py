"""A score with what is known of its uncertainty: from the number of images, and from training under several seeds.

What a part is worth: differences between runs of the same seed, their mean, and its t interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
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


_SPREAD = 1e-9
"""Standard deviations below it are of differences that are the same but for rounding."""

Values = Mapping[int, float]
"""The metric of a variation's runs, by seed."""


@dataclass(frozen=True)
class Difference:
    """Paired differences, one a seed."""

    values: tuple[float, ...]
    mean: float
    interval: tuple[float, float] | None
    """95 % t interval of the mean; None for fewer than two seeds, and where all differ by the same: accuracies are
    counts of images, so that few seeds may agree by chance, and tell nothing of how far others would lie apart."""

    @property
    def verdict(self) -> str:
        """`more`, `less`, or `open` where the interval holds 0 or is not known."""
        if self.interval is None or self.interval[0] <= 0 <= self.interval[1]:
            return "open"
        return "more" if self.mean > 0 else "less"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        interval = list(self.interval) if self.interval else None
        return {"mean": self.mean, "interval": interval, "values": list(self.values), "verdict": self.verdict}


def contribution(whole: Values, without: Values) -> Difference | None:
    """What is lost without a part: metric with it minus metric without, over the seeds of both; None without any."""
    return paired([whole[seed] - without[seed] for seed in sorted(whole.keys() & without.keys())])


def interaction(whole: Values, one: Values, other: Values, neither: Values) -> Difference | None:
    """What is lost without two parts, beyond the sum of what is lost without each; None without a common seed.

    Above 0 each makes up for the other's loss; below 0 the one is worth less without the other.
    """
    seeds = sorted(whole.keys() & one.keys() & other.keys() & neither.keys())
    # (whole - neither) - (whole - one) - (whole - other)
    return paired([one[seed] + other[seed] - whole[seed] - neither[seed] for seed in seeds])


def paired(values: Sequence[float], confidence: float = 0.95) -> Difference | None:
    """Mean of n differences with the interval of Student's t for n - 1 degrees of freedom (Student 1908).

    None without any; see `Difference.interval` for when there is no interval.
    """
    if not values:
        return None
    middle = mean(values)
    if len(values) < 2 or stdev(values) < _SPREAD:
        return Difference(tuple(values), middle, None)
    from scipy.stats import t

    margin = float(t.ppf((1 + confidence) / 2, len(values) - 1)) * stdev(values) / sqrt(len(values))
    return Difference(tuple(values), middle, (middle - margin, middle + margin))
