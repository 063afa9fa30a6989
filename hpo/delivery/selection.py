"""Which models go well together, by their predictions on the validation part alone.

`greedy_ensemble` is the forward selection with replacement of Caruana et al. 2004, Ensemble Selection from Libraries of
Models; `greedy_soup` the one of Wortsman et al. 2022, Model Soups. Both start from the best model and keep only what
does not make it worse on the images that they select by; what the choice is worth is measured on others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hpo.data.dataset import Labels
from hpo.evaluation.calibration import Probabilities, log_probabilities
from hpo.evaluation.metrics import (
    scores,
)

ROUNDS = 30
"""Picks of an ensemble; the best of the ensembles on the way is taken."""

Merit = tuple[float, float]
"""The metric and, for equals, the negative log-likelihood with its sign turned: larger is better."""

Rows = npt.NDArray[np.bool_]

T = tuple[int, ...]


@dataclass(frozen=True)
class Comparison:
    """The best single model and a joint one on the same images."""

    n: int
    metric: str
    best: float
    """The metric of the single model."""
    joined: float
    """The metric of the joint one."""
    gained: int
    """Images that the joint one alone has right."""
    lost: int
    """Images that the single one alone has right."""


class Chosen(NamedTuple):
    """What some images choose, as (n, C) probabilities of all of them."""

    best: Probabilities
    """Of the model that is best alone."""
    joined: Probabilities
    """Of the joint one, not calibrated as a whole."""


class CrossCheck(NamedTuple):
    """A choice, measured on images that it was not made on."""

    comparison: Comparison
    joined: Probabilities
    """(n, C) of the joint model: each image by members that were chosen without it."""

    @property
    def logits(self) -> npt.NDArray[np.float32]:
        """(n, C): the logarithms of `joined`, as a bundle carries them."""
        return log_probabilities(self.joined).astype(np.float32)


def merit(labels: Labels, probabilities: Probabilities, metric: str) -> Merit:
    """How good (n, C) probabilities are, for comparing."""
    found = scores(labels, log_probabilities(probabilities))
    return found[metric], -found["loss"]


def ranked(labels: Labels, members: Probabilities, metric: str) -> list[int]:
    """Members of (k, n, C) probabilities, best first, of equals the earliest."""
    merits = [merit(labels, member, metric) for member in members]
    return sorted(range(len(members)), key=lambda k: (-merits[k][0], -merits[k][1], k))


def greedy_ensemble(labels: Labels, members: Probabilities, metric: str, rounds: int = ROUNDS) -> T:
    """Picks, with repetitions, from (k, n, C) probabilities whose mean is best; never worse than the best alone."""
    total = np.zeros(members.shape[1:])
    picks: list[int] = []
    best: tuple[Merit, int] | None = None
    for size in range(1, rounds + 1):
        merits = [merit(labels, (total + member) / size, metric) for member in members]
        choice = max(range(len(members)), key=lambda k: merits[k])
        picks.append(choice)
        total += members[choice]
        if best is None or merits[choice] > best[0]:
            best = merits[choice], size
    return tuple(picks[: best[1]]) if best else ()


def greedy_soup(order: Sequence[int], merit_of: Callable[[T], Merit]) -> T:
    """Ingredients: the first of `order`, then each that leaves the merit of the mean of weights no smaller."""
    chosen: T = tuple(order[:1])
    reached = merit_of(chosen)
    for ingredient in order[1:]:
        tried = merit_of((*chosen, ingredient))
        if tried >= reached:
            chosen, reached = (*chosen, ingredient), tried
    return chosen


def weights_of(picks: Sequence[int]) -> dict[int, float]:
    """Share of each picked member, heaviest first, of equals the one picked first."""
    counts = {pick: picks.count(pick) for pick in picks}
    return {pick: counts[pick] / len(picks) for pick in sorted(counts, key=lambda pick: -counts[pick])}


def mean_of(members: Probabilities, picks: Sequence[int]) -> Probabilities:
    """(n, C): the mean of (k, n, C) probabilities over the picks."""
    mean: Probabilities = sum(weight * members[pick] for pick, weight in weights_of(picks).items())
    return mean


def compare(labels: Labels, best: Probabilities, joined: Probabilities, metric: str) -> Comparison:
    """`best` beside `joined`, (n, C) probabilities each."""
    alone, together = (rows.argmax(axis=1) == labels for rows in (best, joined))
    return Comparison(
        n=len(labels),
        metric=metric,
        best=merit(labels, best, metric)[0],
        joined=merit(labels, joined, metric)[0],
        gained=int((together & ~alone).sum()),
        lost=int((alone & ~together).sum()),
    )


def halves(labels: Labels, seed: int = 0) -> tuple[Rows, Rows]:
    """Two halves of the rows, every class shared out evenly: (n,) bool each."""
    order = np.random.default_rng(seed).permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    first = np.zeros(len(labels), dtype=np.bool_)
    first[by_class[::2]] = True
    return first, ~first


def cross_checked(labels: Labels, metric: str, choose: Callable[[Rows], Chosen]) -> CrossCheck | None:
    """What a choice is worth on images that it was not made on; None for fewer than two images.

    `choose` gets the rows to choose by. Each half of the images is measured under the choice made by the other.
    """
    first, second = halves(labels)
    if not first.any() or not second.any():
        return None
    by_first, by_second = choose(first), choose(second)
    found = Chosen(*(np.where(second[:, None], *pair) for pair in zip(by_first, by_second, strict=True)))
    return CrossCheck(compare(labels, found.best, found.joined, metric), found.joined)
