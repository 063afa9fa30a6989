"""How far each picture lies from its class, and how likely one that lies so far does not belong.

The distance is that of Mahalanobis to the nearest class in the leading principal components. Centres and the pooled
covariance of the classes are those of the inner part of each class (as Rousseeuw's minimum covariance determinant), so
that pictures which do not belong, together or scattered, do not hide themselves. A picture is far in comparison with
the body of the data set, never with its nearest neighbour: of a hundred different hands among cells each is far.

Far alone is no reason to drop a picture. What tells rare pictures from foreign ones are their labels: of real pictures
at a distance, however odd, a probe that has not seen them predicts most labels; of foreign ones it can predict no more
than by chance. The share of foreign pictures at each distance is estimated from that, as a local false discovery rate,
and from the excess over an exponential tail that is fitted to the body.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hpo.data.dataset import Labels
from hpo.inspection.embeddings import Embeddings, nearest
from hpo.inspection.probe import Points

Floats = npt.NDArray[np.float64]

INNER = 0.75
"""The share of each class that centres and covariance are made of: up to a quarter may be foreign."""

ROUNDS = 6

FEW = 400
"""Below so many groups classes are too small for a covariance, and the tenth neighbour takes its place."""

NEIGHBOUR = 10

LEAST_POWER = 0.25
"""Labels say something where the probe is right this much more often than by chance."""

PRIOR_COUNT = 2.0
"""Weight, in pictures, of the belief that even the farthest pictures belong."""

WITHOUT_LABELS = 0.03
"""The share of foreign pictures at any distance where labels say nothing, before the tail is looked at."""

MOST_BY_TAIL = 20.0
"""The most that the tail alone changes the odds; labels must say the rest."""

WRONG_LABEL = 0.05
"""The probability that a copy of a real picture has another label than its picture."""

ONE_CLASS = 0.2
"""The share of foreign pictures whose copies all lie in the class under which they were filed."""

MANY_COPIES = 10
"""More copies than this are more often those of a foreign picture than of a real one."""

FEW_TO_JUDGE = 100
"""Among fewer pictures labels of single ones prove nothing; those that are far are shown, and never dropped for it."""

FEW_TO_DROP = 250
"""Among fewer pictures, copies counted once, one that is there once is shown at most, and never dropped.

A few rare pictures of a small class look there as foreign ones do: far, with labels that the probe does not expect.
"""

MOST_ALONE = 0.8
"""The most that is said of such a picture that is there once."""

FAR = 4.0
"""The logarithm of the distance from which those few are shown: the tenth neighbour seven times as far as usual."""


@dataclass(frozen=True)
class OutlierScores:
    """Columns (G,) for the groups of copies."""

    distance: Floats
    """Squared distance to the nearest class over its median: 1 is usual."""
    expected: npt.NDArray[np.bool_]
    """Whether the probe predicts the group's label without having seen it."""
    probability: Floats
    """The probability that the picture does not belong, from distance, labels and copies."""


def score_outliers(embeddings: Embeddings) -> OutlierScores:
    """Return the scores of the groups of copies."""
    groups, probabilities = embeddings.groups, embeddings.probabilities
    labels = groups.labels
    logs = log_distances(embeddings)
    predicted = probabilities.argmax(axis=1)
    expected = predicted == labels
    shares = np.bincount(labels, minlength=embeddings.classes) / max(1, len(labels))
    chance = float(shares @ np.bincount(predicted, minlength=embeddings.classes)) / max(1, len(labels))
    usual = usual_agreement(logs, expected)
    odds = _odds(foreign_share(logs, expected, chance, usual))
    tail = _odds(1 - tail_rate(logs))
    odds = odds * np.clip(tail, 1 / 3, MOST_BY_TAIL)
    if usual - chance >= LEAST_POWER:
        odds = odds * np.where(expected, chance / usual, (1 - chance) / (1 - usual))
    odds = odds * np.exp(label_evidence(groups.counts, shares))
    probability = odds / (1 + odds)
    if len(groups) < FEW_TO_JUDGE:
        probability = np.where(logs > FAR, np.maximum(probability, 0.5), probability)
    if len(groups) < FEW_TO_DROP:
        probability = np.where(groups.sizes == 1, np.minimum(probability, MOST_ALONE), probability)
    return OutlierScores(np.exp(logs), expected, probability)


def _odds(probability: Floats) -> Floats:
    bounded = np.clip(probability, 0.005, 0.995)
    return bounded / (1 - bounded)


def log_distances(embeddings: Embeddings) -> Floats:
    """Return the logarithm of each group's distance, the mean over several numbers of components; 0 is the median."""
    count = len(embeddings)
    if count < 3:
        return np.zeros(count)
    # Of 8 to 128 components few are best for few classes; more classes need more to be told apart.
    first = 8 if embeddings.classes <= 10 else 16
    sizes = [size for size in (first, 2 * first, 4 * first) if size <= max(8, count // 8)] or [first]
    logs = [_log_distance(embeddings.leading(size), embeddings.groups.labels, embeddings.classes) for size in sizes]
    mean: Floats = np.mean(logs, axis=0)
    return mean


def _log_distance(points: Points, labels: Labels, classes: int) -> Floats:
    if len(points) < FEW:
        distances, _ = nearest(points, NEIGHBOUR)
        squares = distances[:, -1].astype(np.float64) ** 2
    else:
        squares = class_distances(points.astype(np.float64), labels, classes)
    least = 1e-12 * max(float(squares.max()), 1e-300)
    logs = np.log(np.maximum(squares, least))
    return np.asarray(logs - np.median(logs), np.float64)


def class_distances(points: Floats, labels: Labels, classes: int) -> Floats:
    """Return each point's squared Mahalanobis distance (m,) to the nearest class, robustly estimated."""
    present = np.unique(labels)
    number = np.searchsorted(present, labels)
    rows = [np.flatnonzero(number == one) for one in range(len(present))]
    centres = np.stack([np.median(points[some], axis=0) for some in rows])
    deviations = points - centres[number]
    spread = 1.4826 * np.median(np.abs(deviations), axis=0)
    own = ((deviations / np.maximum(spread, 1e-9 * max(float(spread.max()), 1e-300))) ** 2).sum(axis=1)
    squares = own[:, None]
    for _ in range(ROUNDS):
        inner = np.concatenate([some[np.argsort(own[some], kind="stable")[: _inner(len(some))]] for some in rows])
        centres = np.stack([points[inner[number[inner] == one]].mean(axis=0) for one in range(len(present))])
        whiten = _whitening(points[inner] - centres[number[inner]], len(present))
        whitened, middles = points @ whiten, centres @ whiten
        squares = (whitened**2).sum(1)[:, None] + (middles**2).sum(1) - 2 * whitened @ middles.T
        own = squares[np.arange(len(points)), number]
    nearest_class: Floats = np.maximum(squares.min(axis=1), 0)
    return nearest_class


def _inner(count: int) -> int:
    return max(1, int(np.ceil(INNER * count)))


def _whitening(deviations: Floats, classes: int) -> Floats:
    """Return W (D, D) with W W' the inverse of the covariance, drawn to a multiple of the identity if few rows."""
    dimensions, free = deviations.shape[1], max(1, len(deviations) - classes)
    covariance = deviations.T @ deviations / free
    mean = max(float(np.trace(covariance)) / dimensions, 1e-300)
    shrunk = min(0.5, dimensions / free)
    drawn = (1 - shrunk) * covariance + shrunk * mean * np.eye(dimensions)
    values, vectors = np.linalg.eigh(drawn)
    whitening: Floats = vectors / np.sqrt(np.maximum(values, 1e-9 * mean))
    return whitening


def usual_agreement(logs: Floats, expected: npt.NDArray[np.bool_]) -> float:
    """Return how often labels are predicted among pictures that are odd, but not the oddest: ranks 2 % to 20 %."""
    count = len(logs)
    first = max(5, int(0.02 * count))
    some = expected[np.argsort(-logs, kind="stable")][first : max(first + 10, int(0.2 * count))]
    return float(some.sum() + 1) / (len(some) + 2)


def foreign_share(logs: Floats, expected: npt.NDArray[np.bool_], chance: float, usual: float) -> Floats:
    """Return the share (G,) of foreign pictures about each picture's distance, from labels that are not predicted.

    At a distance with the share p the probe is right p * `chance` + (1 - p) * `usual` of the time. This rate does not
    fall towards the body: isotonic regression (Barlow et al. 1972) estimates it at each rank.
    """
    if usual - chance < LEAST_POWER:
        return np.full(len(logs), WITHOUT_LABELS)
    from sklearn.isotonic import isotonic_regression

    order = np.argsort(-logs, kind="stable")
    rates = isotonic_regression(
        np.concatenate([[usual], expected[order].astype(np.float64)]),
        sample_weight=np.concatenate([[PRIOR_COUNT], np.ones(len(order))]),
    )[1:]
    shares = np.empty(len(logs))
    shares[order] = np.clip((usual - rates) / (usual - chance), 0, 1)
    return shares


def tail_rate(logs: Floats) -> Floats:
    """Return the false discovery rate (G,): pictures that the body's tail has beyond each distance, over those there.

    The tail is exponential in the logarithm of the distance, a power law, through the quantiles 0.8 and 0.95.
    """
    count = len(logs)
    near, far = np.quantile(logs, [0.8, 0.95])
    slope = max(float(far - near) / np.log(4), 1e-6)
    order = np.argsort(-logs, kind="stable")
    body = 0.05 * count * np.exp(np.clip(-(logs[order] - far) / slope, -50, 50))
    rates = np.minimum.accumulate((body / np.arange(1, count + 1))[::-1])[::-1]
    result = np.empty(count)
    result[order] = np.clip(rates, 0, 1)
    return result


def label_evidence(counts: Labels, shares: Floats) -> Floats:
    """Return the log-likelihood ratio (G,) of the copies in a group and their labels: foreign against real.

    Copies of most foreign pictures have labels at random, with the `shares` (C,) of the classes, and those of ONE_CLASS
    of them one label; copies of a real one have its label but for errors. So many copies under one label speak little
    against a foreign picture: it is judged as if it were there once. 0 for a picture alone.
    """
    logs = np.log(np.maximum(shares, 1e-12))
    sizes, most, label = counts.sum(axis=1), counts.max(axis=1), counts.argmax(axis=1)
    anywhere = counts @ logs - logs[label]
    one = (most - 1) * np.log(1 - WRONG_LABEL) + (sizes - most) * np.log(WRONG_LABEL)
    real = one + counts @ logs - most * logs[label]
    foreign = np.logaddexp(np.log(1 - ONE_CLASS) + anywhere, np.log(ONE_CLASS) + real)
    usual_copies = max(MANY_COPIES, float(np.quantile(sizes, 0.99))) if len(sizes) else MANY_COPIES
    many = np.clip(np.log(np.maximum(sizes, 1) / usual_copies), 0, -np.log(ONE_CLASS))
    return np.where(sizes > 1, np.clip(foreign - real + many, -10, 12), 0.0)
