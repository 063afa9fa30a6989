"""Intervals of figures: a share of images, the mean of several seeds, and paired differences between runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

import numpy as np
import numpy.typing as npt

from hpo.evaluation.metrics import wilson


@dataclass(frozen=True)
class Score:
    """A share of images, of one model or the mean of several that differ only in their seed."""

    value: float
    interval: tuple[float, float]
    """95 % Wilson interval of `value`: what another sample of as many images might have given."""
    n: float
    """Number of images; the effective number where images are not independent."""
    spread: float | None = None
    """Sample standard deviation over the seeds; None for one seed."""

    @classmethod
    def of(cls, value: float, n: float) -> Score:
        """Return the score for a share `value` of `n` images."""
        low, high = wilson(round(value * n), max(1, round(n)))
        return cls(value, (min(low, value), max(high, value)), n)

    @classmethod
    def pooled(cls, scores: Sequence[Score | None]) -> Score | None:
        """Return the mean over seeds, or None if no score is known."""
        known = [score for score in scores if score is not None]
        if not known:
            return None
        values = [score.value for score in known]
        # All models saw the same images, so more seeds do not narrow the interval.
        one = cls.of(mean(values), mean(score.n for score in known))
        return cls(one.value, one.interval, one.n, stdev(values) if len(values) > 1 else None)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return {"value": self.value, "interval": list(self.interval), "n": self.n, "spread": self.spread}


def plus_minus(value: float, error: float | None) -> str:
    """Return a value with its standard error, `0.9812 ± 0.0034`, at the precision that the error allows.

    Without an error, or one that changes no digit that counts (below 0.0005), `0.9812` alone.
    """
    if error is None or error < 0.0005:
        return f"{value:.4f}"
    digits = 4 if error < 0.00995 else 3 if error < 0.0995 else 2
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def clustered(correct: npt.NDArray[np.bool_], clusters: npt.NDArray[np.int64]) -> Score:
    """Return the share of `correct` (m,) where rows with equal `clusters` (m,) show the same original image.

    Copies of one image tend to be right or wrong together, so m copies carry less information than m images. The
    interval is Wilson's at the effective sample size p (1 - p) / Var(p), with the variance between clusters (Korn and
    Graubard 1998, Survey Methodology 24:193-201), bounded by the number of originals and m.
    """
    value = float(correct.mean())
    _, places, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    originals = len(sizes)
    residuals = np.bincount(places, weights=correct - value)
    variance = float((residuals**2).sum()) / (originals * max(1, originals - 1) * float(sizes.mean()) ** 2)
    effective = value * (1 - value) / variance if variance > 0 else originals
    return Score.of(value, min(float(len(correct)), max(float(originals), effective)))


Values = Mapping[int, float]
"""The metric of a variation's runs, by seed."""

_SAME = 1e-9
"""Differences with a smaller standard deviation are equal except for rounding."""


@dataclass(frozen=True)
class Difference:
    """Paired differences, one for each seed."""

    values: tuple[float, ...]
    mean: float
    interval: tuple[float, float] | None
    """95 % t interval of the mean; None for fewer than two seeds, and if all differences are equal: accuracies are
    counts of images, so a few seeds can agree by chance, and their variance then says nothing about other seeds."""

    @property
    def verdict(self) -> str:
        """`more`, `less`, or `open` if the interval contains 0 or is unknown."""
        if self.interval is None or self.interval[0] <= 0 <= self.interval[1]:
            return "open"
        return "more" if self.mean > 0 else "less"

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        interval = list(self.interval) if self.interval else None
        return {"mean": self.mean, "interval": interval, "values": list(self.values), "verdict": self.verdict}


def contribution(whole: Values, without: Values) -> Difference | None:
    """Return the metric with a part minus the metric without it, over common seeds; None if there are none."""
    return paired([whole[seed] - without[seed] for seed in sorted(whole.keys() & without.keys())])


def interaction(whole: Values, one: Values, other: Values, neither: Values) -> Difference | None:
    """Return the loss without two parts minus the sum of the losses without each; None without a common seed.

    A positive value means that each part compensates for the loss of the other; a negative one that each part is worth
    less without the other.
    """
    seeds = sorted(whole.keys() & one.keys() & other.keys() & neither.keys())
    # (whole - neither) - (whole - one) - (whole - other)
    return paired([one[seed] + other[seed] - whole[seed] - neither[seed] for seed in seeds])


def paired(values: Sequence[float], confidence: float = 0.95) -> Difference | None:
    """Return the mean of the differences with the interval of the one-sample t test (Student 1908); None without any.

    `Difference.interval` says when there is no interval.
    """
    if not values:
        return None
    middle = mean(values)
    if len(values) < 2 or stdev(values) < _SAME:
        return Difference(tuple(values), middle, None)
    from scipy.stats import ttest_1samp  # half a second, which reading a `Score` does not need

    low, high = ttest_1samp(values, 0).confidence_interval(confidence)
    return Difference(tuple(values), middle, (float(low), float(high)))
