"""Prediction sets: for each image the classes among which the true one is with a chosen probability, the level.

Split conformal prediction (Vovk, Gammerman and Shafer 2005) on labelled images that no weight was trained on. A score
says how badly a class fits an image; a set holds the classes whose score is at most a threshold, which is a quantile of
the scores of the true classes. There are two scores:

    lac   1 - p of the class (Sadinle, Lei and Wasserman 2019): the smallest sets on average
    aps   p of the class and of all that are more probable (Romano, Sesia and Candès 2020), without its random part, so
          that an image always gets the same set: larger, more alike in their coverage of easy and hard images

The most probable class is in every set, so none is empty; its score is 0, so that the thresholds count on it.

If new images are like the calibration images, the sets hold the true class with at least the probability `level`, on
average over the draw of the calibration images, however good the model is. Two things are allowed for:

-   The model is the best of K on the same images. The share of true classes that a threshold of rank r of n misses has
    the distribution Beta(n + 1 - r, r), or is smaller where scores are equal. The largest of K such shares, however
    they depend on each other, has an expectation of at most the integral of min(1, K P(share > t)), and r is the least
    rank at which this is at most 1 - `level`. For K = 1 it is the usual rank, ceil((n + 1) level).
-   Several rows show one original image, as under several corruptions. Originals are what is exchangeable, so n counts
    them, and the rows of one share its weight (Dunn, Wasserman and Ramdas 2022; Lee, Barber and Willett 2023).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.special import betainc, betaincinv

from hpo.data.dataset import Labels
from hpo.evaluation.calibration import RISK, Probabilities

SetMethod = Literal["lac", "aps"]

METHODS: tuple[SetMethod, ...] = ("lac", "aps")

_ROUNDING = 1e-7
"""Probabilities that differ by less are equal: bundles store them in single precision."""


@dataclass(frozen=True)
class ScoredImages:
    """The probabilities of the true classes of n images: all that thresholds of confidence and of sets need."""

    labels: Labels
    """(n,) int64."""
    true: Probabilities
    """(n,) probability of the true class."""
    above: Probabilities
    """(n,) sum of the probabilities of the classes before the true one, most probable first."""
    top: Probabilities
    """(n,) probability of the most probable class."""
    originals: Labels
    """(n,) which original image a row shows; equal where several rows show one."""
    severity: Labels
    """(n,) of the corruption, from 1 to 5; 0 for an image as it is, and where several were applied."""

    @classmethod
    def of(
        cls, labels: Labels, rows: Probabilities, originals: Labels | None = None, severity: Labels | None = None
    ) -> ScoredImages:
        """Return the scores of images with `labels` (n,) whose calibrated probabilities are `rows` (n, C)."""
        n = len(labels)
        order = np.argsort(-rows, axis=1, kind="stable")
        place = (order == labels[:, None]).argmax(axis=1)
        ranked = np.take_along_axis(rows, order, axis=1)
        before = np.concatenate([np.zeros((n, 1)), ranked.cumsum(axis=1)], axis=1)
        return cls(
            labels=labels,
            true=rows[np.arange(n), labels],
            above=before[np.arange(n), place],
            top=ranked[:, 0],
            originals=np.arange(n) if originals is None else originals,
            severity=np.zeros(n, np.int64) if severity is None else severity,
        )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def right(self) -> npt.NDArray[np.bool_]:
        """(n,) whether the most probable class is the true one."""
        return np.asarray(self.above == 0)

    def scores(self, method: SetMethod) -> Probabilities:
        """Return the (n,) scores of the true classes."""
        found: Probabilities = np.where(self.right, 0, 1 - self.true if method == "lac" else self.above + self.true)
        return found

    def subset(self, rows: npt.NDArray[np.bool_]) -> ScoredImages:
        """Return the images of `rows` (n,) bool."""
        return ScoredImages(**{name: values[rows] for name, values in vars(self).items()})


def class_scores(rows: Probabilities, method: SetMethod) -> Probabilities:
    """Return the (n, C) scores of all classes from probabilities (n, C)."""
    found = 1 - rows
    if method == "aps":
        order = np.argsort(-rows, axis=1, kind="stable")
        np.put_along_axis(found, order, np.take_along_axis(rows, order, axis=1).cumsum(axis=1), axis=1)
    found[np.arange(len(rows)), rows.argmax(axis=1)] = 0
    return found


@dataclass(frozen=True)
class SetRule:
    """Which classes are in the set of an image."""

    method: SetMethod
    level: float
    thresholds: Probabilities
    """(C,) the greatest score with which a class is in a set."""

    def members(self, rows: Probabilities) -> npt.NDArray[np.bool_]:
        """Return (n, C) whether a class is in the set of an image with the probabilities `rows` (n, C)."""
        return np.asarray(class_scores(rows, self.method) <= self.thresholds + _ROUNDING)

    def holds(self, images: ScoredImages) -> npt.NDArray[np.bool_]:
        """Return (n,) whether the set of an image holds its true class."""
        return np.asarray(images.scores(self.method) <= self.thresholds[images.labels] + _ROUNDING)


@dataclass(frozen=True)
class CalibratedSets:
    """Thresholds from one kind of images, and what they promise for images of this kind."""

    thresholds: Probabilities
    """(C,)."""
    originals: int
    """Different images that they were found on."""
    at_least: float
    """Coverage on new images that these thresholds have with 95 % confidence; of several classes the least."""


def calibrate_sets(
    images: ScoredImages, method: SetMethod, level: float, *, classes: int, compared: int = 1, by_class: bool = False
) -> CalibratedSets | None:
    """Return the thresholds for sets that hold the true class with the probability `level`.

    `compared` is the number of models that this one is the best of, by these images. With `by_class` the level holds
    for the images of each of the `classes`. None where there are too few images for the level.
    """
    groups = [images.labels == label for label in range(classes)] if by_class else [np.ones(len(images), np.bool_)]
    found = [_threshold(images.subset(rows), method, level, compared) for rows in groups]
    known = [one for one in found if one is not None]
    if len(known) < len(groups):
        return None
    thresholds = np.array([threshold for threshold, _ in known])
    originals = len(np.unique(images.originals))
    return CalibratedSets(
        np.broadcast_to(thresholds, classes).copy(), originals, min(at_least for _, at_least in known)
    )


def _threshold(images: ScoredImages, method: SetMethod, level: float, compared: int) -> tuple[float, float] | None:
    """Return the least sufficient score, and the coverage that it has with 95 % confidence; None for too few images."""
    _, place, rows_of = np.unique(images.originals, return_inverse=True, return_counts=True)
    n = len(rows_of)
    rank = needed_rank(n, level, compared)
    if rank is None:
        return None
    scores = images.scores(method)
    order = np.argsort(scores, kind="stable")
    reached = (1 / rows_of[place])[order].cumsum()
    at = int(np.searchsorted(reached, rank - _ROUNDING * n))
    return float(scores[order[min(at, len(order) - 1)]]), float(betaincinv(rank, n + 1 - rank, RISK / compared))


def needed_rank(n: int, level: float, compared: int = 1) -> int | None:
    """Return the least rank among `n` scores that gives the `level`, for the best of `compared` models; None if none.

    The level is a share above 0 and below 1.
    """
    low, high = 0, n + 1  # the bound falls with the rank, and one of n + 1 would always do
    while high - low > 1:
        rank = (low + high) // 2
        if _expected_misses(n, rank, compared) <= 1 - level + 1e-12:
            high = rank
        else:
            low = rank
    return high if 0 < high <= n else None


def highest_level(n: int, compared: int = 1) -> float:
    """Return the highest level that `n` images can give; 0 for none."""
    return max(0.0, 1 - _expected_misses(n, n, compared)) if n else 0.0


def _expected_misses(n: int, rank: int, compared: int) -> float:
    """Return the bound on the expected share of true classes that are missed: see the head of this file.

    The integral of min(1, K P(X > t)) for X of Beta(a, b) is K a / (a + b) P(Y > t), with Y of Beta(a + 1, b) and
    P(X > t) = 1 / K, since the density of X times its value is that of Y times the mean.
    """
    a, b = n + 1 - rank, rank
    at = betaincinv(a, b, 1 - 1 / compared) if compared > 1 else 0.0
    return min(1.0, float(compared * a / (a + b) * (1 - betainc(a + 1, b, at))))
