"""The best of several trials: which others cannot be told from it, and how much of its value is luck.

The best of N measured values is too high by selection, even where each single value is right on average. All trials
were measured on the same images, so the part of their errors that they share changes no order; what is left is the own
error of each, and the true values follow from the measured ones by empirical Bayes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from statistics import NormalDist, fmean

import numpy as np
import numpy.typing as npt

from hpo.evaluation.metrics import Ratios
from hpo.evaluation.outcomes import Outcomes

ALPHA = 0.05
"""Probability, at most, that the truly best of the trials is told from the apparent best, and so not named with it."""

_REACH = 12.0
"""Own errors below the best value from which a trial cannot be the best: its distance does not matter any more."""

_ROUNDS = 60
"""Rounds of expectation maximisation. Few, from an even start: more would make a few steps of a smooth distribution."""

_DRAWS = 4_000


@dataclass(frozen=True)
class MeasuredValue:
    """A trial's value, and what each image adds to it."""

    value: float
    influences: Ratios
    """(n,) float64, as `Outcomes.influences`; over folds those of all, so that they add up to the mean's."""
    contributions: Ratios
    """(n,) float64, as `Outcomes.contributions`; their sum is the value."""
    right: npt.NDArray[np.bool_] | None
    """(n,) whether the prediction was right, where the value is an accuracy; else None."""

    @classmethod
    def of(cls, folds: Sequence[Outcomes], metric: str, robustness: float = 0.0) -> MeasuredValue:
        """Return the value over all `folds`, one without folds."""
        count = len(folds)
        right = np.concatenate([one.labels == one.predicted for one in folds])
        return cls(
            fmean(one.value(metric, robustness) for one in folds),
            np.concatenate([one.influences(metric, robustness) for one in folds]) / count,
            np.concatenate([one.contributions(metric, robustness) for one in folds]) / count,
            right if metric == "accuracy" and not robustness else None,
        )


@dataclass(frozen=True)
class Lead:
    """How far a trial is ahead of another on the same images."""

    difference: float
    error: float
    """Standard error of the difference, with the images paired."""
    chance: float
    """Probability of such a lead, or a larger one, if the other is as good."""


def lead_of(best: MeasuredValue, other: MeasuredValue) -> Lead:
    """Return the lead of `best` over `other`: by McNemar's test for accuracy, else by the paired standard error."""
    difference = best.value - other.value
    error = float(np.linalg.norm(best.contributions - other.contributions))
    if best.right is not None and other.right is not None:
        gained, lost = int((best.right & ~other.right).sum()), int((other.right & ~best.right).sum())
        return Lead(difference, error, mcnemar(gained, lost))
    chance = 0.5 if error == 0 else NormalDist().cdf(-difference / error)
    return Lead(difference, error, chance)


def mcnemar(gained: int, lost: int) -> float:
    """Return the one-sided mid-p value of McNemar's test: the chance of so large a gain if gain and loss are even.

    `gained` images has only the first model right, `lost` only the second. Half of the probability of the observed
    count is left out (Fagerland, Lydersen and Laake 2013): the exact test rejects far too rarely for few images.
    """
    total = gained + lost
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, total + 1)))])
    counts = np.arange(gained, total + 1)
    chances = np.exp(logs[total] - logs[counts] - logs[total - counts] - total * np.log(2))
    return float(chances.sum() - chances[0] / 2)


def not_told_apart(best: MeasuredValue, others: Mapping[int, MeasuredValue]) -> list[int]:
    """Return the numbers of the `others` that may be as good as `best`, or better.

    Each is compared at ALPHA over the number of comparisons (Bonferroni). `best` was chosen for its value; but if one
    of the others is truly the best, it is missed only where some trial leads it by chance, and all chances for that
    together are ALPHA at most: so the trials named, with `best`, hold the truly best with a probability of 95 %.
    """
    level = ALPHA / max(1, len(others))
    return sorted(number for number, other in others.items() if lead_of(best, other).chance > level)


def own_errors(trials: Sequence[MeasuredValue], best: int) -> Ratios:
    """Return (T,) float64: the standard error of each value without the part that all values share.

    The difference of two trials has the variance of both own errors. That of the trial at position `best` is taken to
    be as large as those of the trials with the nearest values, of which the middle one decides.
    """
    if len(trials) < 2:
        return np.array([float(np.linalg.norm(one.influences)) for one in trials])
    chosen = trials[best]
    variances = np.array([float(((one.influences - chosen.influences) ** 2).sum()) for one in trials])
    distance = np.array([abs(one.value - chosen.value) for one in trials])
    distance[best] = inf
    nearest = np.argsort(distance, kind="stable")[: max(1, min(len(trials) - 1, max(3, len(trials) // 3)))]
    own = float(np.median(variances[nearest])) / 2
    return np.sqrt(np.where(np.arange(len(trials)) == best, own, np.maximum(own, variances - own)))


@dataclass(frozen=True)
class TrueValues:
    """Distributions of the true values of trials, from measured values with known errors.

    The distribution of true values is estimated from all of them (Kiefer and Wolfowitz 1956; Laird 1978), as a mixture
    of narrow normal distributions on a grid; each true value then has its own distribution by Bayes' rule. Selection
    biases the largest measured value, and not this (Efron 2011, Tweedie's formula and selection bias).
    """

    values: Ratios
    """(T,) float64, as measured."""
    errors: Ratios
    """(T,) float64, above 0."""
    grid: Ratios
    """(G,) centres of the mixture."""
    weights: Ratios
    """(G,) of the mixture; their sum is 1."""
    shares: Ratios
    """(T, G) probability that the true value comes from each part; each row sums to 1."""

    @classmethod
    def of(cls, values: Sequence[float] | Ratios, errors: Sequence[float] | Ratios) -> TrueValues:
        """Return it for (T,) values and errors, T > 0."""
        measured, spread = np.asarray(values, np.float64), np.maximum(np.asarray(errors, np.float64), 1e-9)
        own, top = float(spread.min()), float(measured.max())
        low = max(float(measured.min()), top - _REACH * own)
        grid = np.arange(low - own, top + own, own / 4)
        # A trial below the grid stays at its lower end, however wide its error is.
        held, width = np.maximum(measured, low), np.where(measured < low, own, spread)
        width = np.hypot(width, own / 4)[:, None]
        likelihood = np.exp(-0.5 * ((held[:, None] - grid) / width) ** 2) / width
        weights = np.full(len(grid), 1 / len(grid))
        shares = likelihood
        for _ in range(_ROUNDS):
            shares = likelihood * weights
            shares /= shares.sum(axis=1, keepdims=True)
            weights = shares.mean(axis=0)
        return cls(measured, spread, grid, weights, shares)

    @property
    def _step(self) -> float:
        return float(self.grid[1] - self.grid[0])

    @property
    def _kept(self) -> Ratios:
        """(T,) the share of a deviation from the centre of a part that is real."""
        kept: Ratios = self._step**2 / (self._step**2 + self.errors**2)
        return kept

    def _centres(self, trial: int) -> Ratios:
        """Return (G,): the mean of the true value if it comes from each part."""
        kept = float(self._kept[trial])
        return (1 - kept) * self.grid + kept * float(self.values[trial])

    def _width(self, trial: int) -> float:
        return float(np.sqrt(self._kept[trial]) * self.errors[trial])

    def mean(self, trial: int) -> float:
        """Return the expected true value of a trial."""
        return float(self.shares[trial] @ self._centres(trial))

    def chance_worse(self, trial: int, other: int) -> float:
        """Return the probability that the true value of `trial` is below that of `other`."""
        rng = np.random.default_rng(0)
        first, second = self._drawn(trial, rng), self._drawn(other, rng)
        return float((first < second).mean())

    def _drawn(self, trial: int, rng: np.random.Generator) -> Ratios:
        """Return draws of the true value. One far below the others keeps its value: the grid does not reach it."""
        if self.values[trial] < self.grid[0]:
            return np.full(_DRAWS, self.values[trial])
        parts = np.searchsorted(np.cumsum(self.shares[trial]), rng.random(_DRAWS)).clip(max=len(self.grid) - 1)
        drawn: Ratios = self._centres(trial)[parts] + self._width(trial) * rng.standard_normal(_DRAWS)
        return drawn

    def expected_gain(self, trial: int, further: float) -> float:
        """Return how far the best of so many further trials is expected to lie above the true value of `trial`.

        They are taken to be like the trials so far. With F the distribution of true values and P that of `trial`'s, it
        is the integral of (1 - F(x)^further) P(x).
        """
        from scipy.special import ndtr  # a tenth of a second, which comparing two trials does not need

        step = self._step
        x = np.arange(self.grid[0] - 4 * step, self.grid[-1] + 4 * step, step / 4)
        below = ndtr((x[:, None] - self.grid) / step) @ self.weights
        chosen = ndtr((x[:, None] - self._centres(trial)) / self._width(trial)) @ self.shares[trial]
        return float(((1 - below.clip(0, 1) ** further) * chosen).sum() * step / 4)


def recent_gain(values: Sequence[float | None]) -> float:
    """Return by how much the best value grew over the second half of the trials, in their order; None has no value.

    For a search that draws at random, as many trials again bring about as much at most; for one that learns it shows
    that the end is not reached. inf where the first half has no value.
    """
    half = [value for value in values[: len(values) // 2] if value is not None]
    known = [value for value in values if value is not None]
    return max(known) - max(half) if half else inf
