"""The accuracy that is in reach: a frozen probe, a lower bound of the error, and how accuracy grows with the images.

None of the three is a limit for training: a fine-tuned network has other features. They say what can be expected before
any training, and whether more images of the same kind would help the frozen backbone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hpo.data.dataset import Labels
from hpo.device import side_by_side
from hpo.evaluation.metrics import wilson
from hpo.inspection.embeddings import Embeddings, nearest
from hpo.inspection.probe import Points, Probabilities, fit_probe, fold_rows

SHARES = (0.10, 0.25, 0.50, 1.0)

COMPONENTS = 64

FEWEST = 20


@dataclass(frozen=True)
class CurvePoint:
    """The probe's out-of-fold accuracy with some of the images."""

    share: float
    images: int
    """Pictures that a probe was trained on, the mean over the folds."""
    accuracy: float


@dataclass(frozen=True)
class PowerLaw:
    """error = floor + factor * images ** -exponent, fitted to the points of the curve."""

    floor: float
    factor: float
    exponent: float

    def accuracy(self, images: int) -> float:
        """Return the accuracy that the law gives for so many images."""
        return float(1 - self.floor - self.factor * images**-self.exponent)


@dataclass(frozen=True)
class Target:
    """The measured figures; copies of one picture count once."""

    images: int
    accuracy: float
    """Out-of-fold accuracy of the probe."""
    interval: tuple[float, float]
    """95 % interval (Wilson)."""
    majority: float
    """Share of the largest class: the accuracy of always naming it."""
    neighbour_error: float
    """Error of the nearest neighbour among other pictures."""
    least_error: float
    """Lower bound of the error of any classifier of these features (Cover and Hart 1967), from `neighbour_error`.

    It holds for many images; for few it is an estimate.
    """
    curve: tuple[CurvePoint, ...]
    law: PowerLaw | None
    """None where the accuracy does not grow."""

    def lines(self) -> list[str]:
        """Return the whole in sentences."""
        low, high = self.interval
        lines = [
            "before any training: a simple classifier on features of a network that does not train on these images "
            f"(linear probe) is right for {self.accuracy:.1%} of the pictures it has not seen "
            f"(95 % interval {low:.1%} to {high:.1%}; always naming the largest class: {self.majority:.1%})",
            f"the nearest other picture has another label for {self.neighbour_error:.1%}: {self._least()}",
        ]
        return [*lines, self.more_images()]

    def _least(self) -> str:
        """Return the lower bound of the error in words, unless the probe disproves it."""
        if self.least_error >= 1 - self.accuracy:
            return "these are too few to say from it which error cannot be avoided (bound of Cover and Hart)"
        return (
            f"with these features no classifier is expected to be wrong for less than {self.least_error:.1%} (bound of "
            "Cover and Hart); a network that trains on the images may be"
        )

    def more_images(self) -> str:
        """Answer in one careful sentence whether more images would help."""
        if self.law is None:
            return "whether more images would help cannot be told: the accuracy does not grow along the curve"
        now, doubled = self.law.accuracy(self.images), self.law.accuracy(2 * self.images)
        gain = 100 * (doubled - now)
        words = "would probably help" if gain >= 1 else "might help a little" if gain >= 0.3 else "would hardly help"
        return (
            f"twice as many images of the same kind {words} this simple classifier: a curve fitted to its accuracies "
            f"(power law) gives {gain:+.1f} points, an extrapolation beyond the data; a trained network may gain more "
            "or less"
        )


def measure_target(features: Embeddings, without: Labels | None = None) -> Target | None:
    """Measure the probe on the groups of copies, leaving out groups that hold an image of `without` (rows).

    None for fewer than 20 pictures or for one class: nothing can be measured then.
    """
    kept = np.ones(len(features), np.bool_)
    if without is not None:
        kept[features.groups.group_of[without]] = False
    points, labels = features.points[kept], features.groups.labels[kept]
    together = None if features.together is None else features.together[kept]
    if len(points) < FEWEST or len(np.unique(labels)) < 2 or (together is not None and len(np.unique(together)) < 2):
        return None
    known = features.probabilities if kept.all() else None
    right, curve = learning_curve(points, labels, features.classes, together, known)
    error = neighbour_error(points[:, :COMPONENTS], labels, together)
    return Target(
        images=len(points),
        accuracy=right / len(points),
        interval=wilson(right, len(points)),
        majority=float(np.bincount(labels).max()) / len(labels),
        neighbour_error=error,
        least_error=cover_hart(error, len(np.unique(labels))),
        curve=curve,
        law=fit_power_law(curve),
    )


def learning_curve(
    points: Points, labels: Labels, classes: int, together: Labels | None = None, known: Probabilities | None = None
) -> tuple[int, tuple[CurvePoint, ...]]:
    """Return how many points all folds predict right with all of the others, and the curve over SHARES.

    All probes of a fold are tested on the same points; smaller shares lie within larger ones. Points of one number in
    `together` (m,) are in one fold. `known` (m, C) are the probabilities by probes with all other points, where
    `out_of_fold` has made them of the same points and folds.
    """
    right, used = np.zeros(len(SHARES), np.int64), np.zeros(len(SHARES))
    rounds = list(fold_rows(labels, together=together))
    tasks = [(number, held, some) for held, rest in rounds for number, some in enumerate(_shares(rest, classes))]

    def count_right(task: tuple[int, Labels, Labels]) -> int:
        number, held, some = task
        if known is not None and SHARES[number] == 1:
            probabilities = known[held]
        else:
            probabilities = fit_probe(points[some], labels[some], classes).predict(points[held])
        return int((probabilities.argmax(axis=1) == labels[held]).sum())

    for (number, _, some), count in zip(tasks, side_by_side(count_right, tasks), strict=True):
        right[number] += count
        used[number] += len(some) / len(rounds)
    curve = tuple(
        CurvePoint(share, round(images), float(count) / len(points))
        for share, images, count in zip(SHARES, used, right, strict=True)
    )
    return int(right[-1]), curve


def _shares(rows: Labels, classes: int) -> list[Labels]:
    """Return SHARES of some rows, drawn at random, the smaller ones within the larger."""
    shuffled = rows[np.random.default_rng(0).permutation(len(rows))]
    return [shuffled[: max(classes, round(share * len(rows)))] for share in SHARES]


def neighbour_error(points: Points, labels: Labels, together: Labels | None = None) -> float:
    """Return how often the nearest other point, of another group where they are grouped, has another label."""
    _, rows = nearest(np.ascontiguousarray(points), 1, apart=together)
    return float((labels[rows[:, 0]] != labels).mean())


def cover_hart(error: float, classes: int) -> float:
    """Return the lower bound of the Bayes error for the error of the nearest neighbour.

    Cover and Hart 1967: R_NN <= R (2 - C / (C - 1) R), solved for R.
    """
    most = (classes - 1) / classes
    return most * (1 - math.sqrt(max(0.0, 1 - error / most)))


def fit_power_law(curve: tuple[CurvePoint, ...]) -> PowerLaw | None:
    """Fit floor >= 0, factor > 0 and exponent in [0.05, 1] by least squares; None where the error does not fall."""
    images = np.array([point.images for point in curve], np.float64)
    errors = 1 - np.array([point.accuracy for point in curve])
    fits = [_fit(images, errors, exponent) for exponent in np.linspace(0.05, 1, 96)]
    best, law = min(fits, key=lambda fit: fit[0])
    return law if np.isfinite(best) else None


def _fit(images: npt.NDArray[np.float64], errors: npt.NDArray[np.float64], exponent: float) -> tuple[float, PowerLaw]:
    """Return the squared error of the best law of an exponent, infinite where its factor is not positive."""
    powers = images**-exponent
    centred = powers - powers.mean()
    factor = float(centred @ errors / max(float(centred @ centred), 1e-300))
    floor = float(errors.mean() - factor * powers.mean())
    if floor < 0:
        floor, factor = 0.0, float(powers @ errors / (powers @ powers))
    loss = float(((floor + factor * powers - errors) ** 2).sum())
    return (loss if factor > 1e-9 else math.inf), PowerLaw(floor, factor, float(exponent))
