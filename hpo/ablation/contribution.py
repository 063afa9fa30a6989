"""What a part is worth: differences between runs of the same seed, their mean, and its t interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import mean, stdev
from typing import Any

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
