"""Select models that are better together, by their predictions on the validation part alone.

`greedy_ensemble` is the forward selection with replacement of Caruana et al. 2004, Ensemble Selection from Libraries of
Models; `greedy_soup` the one of Wortsman et al. 2022, Model Soups. Both start from the best model and keep only models
that do not make the result worse on the images that they select by; the worth of the choice is measured on others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hpo.data.dataset import Labels
from hpo.evaluation.calibration import Probabilities, log_probabilities
from hpo.evaluation.metrics import ALTERED, combined, scores

ROUNDS = 30
"""Picks for an ensemble; the best of the ensembles along the way is taken."""

Merit = tuple[float, float]
"""The metric and, for equals, the negative log-likelihood with its sign turned: larger is better."""

Rows = npt.NDArray[np.bool_]

Picks = tuple[int, ...]


@dataclass(frozen=True)
class WeightedMetric:
    """A metric on clean and on altered images, as the value of a trial weighs them."""

    metric: str
    altered: Rows
    """(n,) bool: the rows that are altered images."""
    weight: float
    """Weight of these: the robustness of the study."""

    def of(self, rows: Rows) -> WeightedMetric:
        """Return the same for some of the rows, (n,) bool."""
        return WeightedMetric(self.metric, self.altered[rows], self.weight)


@dataclass(frozen=True)
class JointComparison:
    """The best single model and a joint one on the same images."""

    n: int
    metric: str
    best: float
    """Metric of the single model."""
    joined: float
    """Metric of the joint model."""
    gained: int
    """Images that only the joint model has right."""
    lost: int
    """Images that only the single model has right."""


class Chosen(NamedTuple):
    """The models that some images choose, as (n, C) probabilities of all of them, or (n + m, C) with altered ones."""

    best: Probabilities
    """Probabilities of the model that is best alone."""
    joined: Probabilities
    """Probabilities of the joint model, not calibrated as a whole."""


class CrossCheck(NamedTuple):
    """A choice, measured on images that it was not made on."""

    comparison: JointComparison
    joined: Probabilities
    """(n, C) or (n + m, C) probabilities of the joint model: each image by members that were chosen without it."""

    @property
    def logits(self) -> npt.NDArray[np.float32]:
        """The logarithms of `joined`, as a bundle stores them."""
        return log_probabilities(self.joined).astype(np.float32)


def merit(labels: Labels, probabilities: Probabilities, metric: str | WeightedMetric) -> Merit:
    """Return the merit of (n, C) probabilities; rows that a WeightedMetric calls altered count with its weight."""
    logits = log_probabilities(probabilities)
    if isinstance(metric, str) or not metric.altered.any():
        name, found = metric if isinstance(metric, str) else metric.metric, scores(labels, logits)
        return found[name], -found["loss"]
    found = {
        f"{prefix}{key}": value
        for prefix, rows in (("", ~metric.altered), (ALTERED, metric.altered))
        for key, value in scores(labels[rows], logits[rows]).items()
    }
    return combined(found, metric.metric, metric.weight), -combined(found, "loss", metric.weight)


def ranked(labels: Labels, members: Probabilities, metric: str | WeightedMetric) -> list[int]:
    """Return the members of (k, n, C) probabilities, best first; among equals the earliest first."""
    merits = [merit(labels, member, metric) for member in members]
    return sorted(range(len(members)), key=lambda k: (-merits[k][0], -merits[k][1], k))


def greedy_ensemble(
    labels: Labels,
    members: Probabilities,
    metric: str | WeightedMetric,
    rounds: int = ROUNDS,
    *,
    most: int | None = None,
) -> Picks:
    """Return picks, with repetitions, from (k, n, C) probabilities; their mean is never worse than the best alone.

    `most` is the largest number of different members; None is no limit.
    """
    total = np.zeros(members.shape[1:])
    picks: list[int] = []
    best: tuple[Merit, int] | None = None
    for size in range(1, rounds + 1):
        open_to = range(len(members)) if most is None or len(set(picks)) < most else sorted(set(picks))
        merits = {k: merit(labels, (total + members[k]) / size, metric) for k in open_to}
        choice = max(merits, key=merits.__getitem__)
        picks.append(choice)
        total += members[choice]
        if best is None or merits[choice] > best[0]:
            best = merits[choice], size
    return tuple(picks[: best[1]]) if best else ()


def greedy_soup(order: Sequence[int], merit_of: Callable[[Picks], Merit]) -> Picks:
    """Return the first of `order`, and each later ingredient with which the mean of weights has no smaller merit."""
    chosen: Picks = tuple(order[:1])
    reached = merit_of(chosen)
    for ingredient in order[1:]:
        tried = merit_of((*chosen, ingredient))
        if tried >= reached:
            chosen, reached = (*chosen, ingredient), tried
    return chosen


def weights_of(picks: Sequence[int]) -> dict[int, float]:
    """Return the share of each picked member, heaviest first; among equals the one picked first."""
    counts = {pick: picks.count(pick) for pick in picks}
    return {pick: counts[pick] / len(picks) for pick in sorted(counts, key=lambda pick: -counts[pick])}


def mean_of(members: Probabilities, picks: Sequence[int]) -> Probabilities:
    """Return (n, C): the mean of (k, n, C) probabilities over the picks."""
    mean: Probabilities = sum(weight * members[pick] for pick, weight in weights_of(picks).items())
    return mean


def compare(labels: Labels, best: Probabilities, joined: Probabilities, metric: str) -> JointComparison:
    """Compare `best` and `joined`, (n, C) probabilities each."""
    alone, together = (rows.argmax(axis=1) == labels for rows in (best, joined))
    return JointComparison(
        n=len(labels),
        metric=metric,
        best=merit(labels, best, metric)[0],
        joined=merit(labels, joined, metric)[0],
        gained=int((together & ~alone).sum()),
        lost=int((alone & ~together).sum()),
    )


def halves(labels: Labels, seed: int = 0) -> tuple[Rows, Rows]:
    """Return two halves of the rows, (n,) bool each, with every class divided evenly."""
    order = np.random.default_rng(seed).permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    first = np.zeros(len(labels), dtype=np.bool_)
    first[by_class[::2]] = True
    return first, ~first


def cross_checked(
    labels: Labels, metric: str, choose: Callable[[Rows], Chosen], rows: Labels | None = None
) -> CrossCheck | None:
    """Measure each half of the n images under the choice made by the other half; None for fewer than two images.

    `choose` gets the images to choose by, (n,) bool. `rows` (n + m,) says which image each row of what it returns
    shows, where altered ones follow the n; the comparison is on the n.
    """
    first, second = halves(labels)
    if not first.any() or not second.any():
        return None
    by_first, by_second = choose(first), choose(second)
    shown, n = second if rows is None else second[rows], len(labels)
    found = Chosen(*(np.where(shown[:, None], *pair) for pair in zip(by_first, by_second, strict=True)))
    return CrossCheck(compare(labels, found.best[:n], found.joined[:n], metric), found.joined)
