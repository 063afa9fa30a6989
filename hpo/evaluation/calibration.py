"""How far a model's probabilities can be believed, and the one number that makes them more believable.

Temperature scaling (Guo et al. 2017, On Calibration of Modern Neural Networks) divides all logits by one T > 0: the
ranking of the classes stays, so accuracy does. The T of least NLL on few images is mostly noise, and made probabilities
worse on new ones; `fit_temperature` draws it towards 1 by as much as is not known, and keeps 1 where the images do not
show that another is better. Measured on the images that it was fitted on, T seems a little better than it is;
`held_out` measures each image under a T that was fitted without it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq

from hpo.data.dataset import Labels
from hpo.evaluation.metrics import (
    AnyLogits,
    wilson,
)

Probabilities = npt.NDArray[np.float64]

BINS = 15

COLDEST, HOTTEST = 0.01, 100.0
"""Bounds of a fitted temperature."""

FOLDS = 5

SPREAD = float(np.log(2)) / 2
"""Standard deviation of log T before any image was seen: two T of three are within a factor of root 2 of 1."""

RISK = 0.05
"""Probability with which the answers above a threshold may be right less often than was asked."""


@dataclass(frozen=True)
class Bin:
    """Images whose confidence, the probability of the class they are taken for, lies in (low, high]."""

    low: float
    high: float
    n: int
    confidence: float
    """Mean confidence."""
    accuracy: float


@dataclass(frozen=True)
class Reliability:
    """How probabilities compare with what came true."""

    ece: float
    """Expected calibration error: mean |accuracy - confidence| of the bins, weighted by their images."""
    chance_ece: float
    """About the ECE that a perfectly calibrated model would show on as many images: |.| of a noisy mean is never 0."""
    brier: float
    """Mean squared distance to the one-hot label, summed over the classes, in [0, 2] (Brier 1950)."""
    nll: float
    """Mean negative log-likelihood, in nats."""
    bins: tuple[Bin, ...]
    """Those that hold an image."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {**asdict(self), "bins": [asdict(one) for one in self.bins]}


@dataclass(frozen=True)
class Abstention:
    """A confidence below which a model should not answer, and what its other answers are worth."""

    threshold: float
    coverage: float
    """Share of the images at or above the threshold, where it was chosen."""
    accuracy: float
    """Of those."""
    at_least: float
    """Lower bound of `accuracy` with 95 % confidence, the choice among `compared` models included: what may be counted
    on elsewhere."""
    compared: int = 1
    """Models that were compared on these images before this one was chosen."""


def probabilities(logits: AnyLogits, temperature: float = 1.0) -> Probabilities:
    """Softmax over the last axis of `logits` / `temperature`: (…, C) float64."""
    scaled = logits.astype(np.float64) / temperature
    powers = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    result: Probabilities = powers / powers.sum(axis=-1, keepdims=True)
    return result


def log_probabilities(values: Probabilities) -> Probabilities:
    """Logarithms of probabilities, finite where one is 0."""
    return np.log(np.maximum(values, np.finfo(np.float64).tiny))


def likeliest_temperature(labels: Labels, logits: AnyLogits) -> float:
    """The T in [0.01, 100] of least NLL for `logits` (n, C), `labels` (n,); n > 0.

    Where every image is right the likelihood has no finite optimum (T would be 0, every confidence 1): then 1, which
    changes nothing.
    """
    return _temperature(labels, logits, None)


def fit_temperature(labels: Labels, logits: AnyLogits) -> float:
    """The T in [0.01, 100] to apply, by `logits` (n, C) and `labels` (n,); n > 0.

    The maximum a posteriori under a normal prior of log T around 0 with the deviation `SPREAD`: a few images move it
    little, many as far as they like. It is taken only where its mean gain in NLL over T = 1, less the 1/(2n) that a
    fitted number gains on its own images by chance (Akaike 1974), exceeds one standard error of that mean (the
    one-standard-error rule of Breiman et al. 1984, Classification and Regression Trees); else T is 1.
    """
    temperature, n = _temperature(labels, logits, SPREAD), len(labels)
    if n < 2:
        return 1.0
    gains = _losses(labels, logits, 1.0) - _losses(labels, logits, temperature)
    shown = gains.mean() - 1 / (2 * n) > gains.std(ddof=1) / np.sqrt(n)
    return temperature if shown else 1.0


def _temperature(labels: Labels, logits: AnyLogits, spread: float | None) -> float:
    """The T of least NLL, or of the most probable one where log T has a prior of the deviation `spread`.

    NLL is convex in 1/T, so its slope has one root; the prior's slope has its own at T = 1, and the root of the sum
    lies between the two.
    """
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    true = shifted[np.arange(len(labels)), labels]
    if (true == 0).all():
        return 1.0

    def slope(inverse: float) -> float:
        """d / d (1/T) of the mean loss, E_p[z] - z_y averaged, and of the prior."""
        prior = np.log(inverse) / (spread**2 * inverse * len(labels)) if spread is not None else 0.0
        return float(((probabilities(shifted, 1 / inverse) * shifted).sum(axis=1) - true).mean() + prior)

    low, high = 1 / HOTTEST, 1 / COLDEST
    if slope(low) >= 0:
        return HOTTEST
    if slope(high) <= 0:
        return COLDEST
    return 1 / float(brentq(slope, low, high, rtol=1e-10))


def _losses(labels: Labels, logits: AnyLogits, temperature: float) -> Probabilities:
    """(n,) negative log-likelihood of each image."""
    rows = probabilities(logits, temperature)
    losses: Probabilities = -log_probabilities(rows[np.arange(len(labels)), labels])
    return losses


def held_out(labels: Labels, logits: AnyLogits, *, folds: int = FOLDS, seed: int = 0) -> Probabilities | None:
    """(n, C): each image's probabilities under the temperature of the other folds; None for fewer images than folds."""
    if len(labels) < folds:
        return None
    fold = np.random.default_rng(seed).permutation(len(labels)) % folds
    result = np.empty(logits.shape, dtype=np.float64)
    for number in range(folds):
        inside = fold == number
        temperature = fit_temperature(labels[~inside], logits[~inside])
        result[inside] = probabilities(logits[inside], temperature)
    return result


def reliability(labels: Labels, probabilities: Probabilities, bins: int = BINS) -> Reliability:
    """Calibration of `probabilities` (n, C), rows adding up to 1, against `labels` (n,); n > 0.

    ECE is that of Guo et al. 2017: `bins` of equal width over the confidence. It is biased upwards, the more the fewer
    images there are (Roelofs et al. 2022); `chance_ece` says by about how much: a mean of k right-or-wrongs strays from
    its expectation by sqrt(2 / pi) standard deviations.
    """
    confidence, right = _confidence(labels, probabilities)
    found = _bins(confidence, right, bins)
    errors = np.eye(probabilities.shape[1])[labels] - probabilities
    true = probabilities[np.arange(len(labels)), labels]
    return Reliability(
        ece=sum(one.n * abs(one.accuracy - one.confidence) for one in found) / len(labels),
        chance_ece=_chance_ece(confidence, bins),
        brier=float((errors**2).sum(axis=1).mean()),
        nll=float(-log_probabilities(true).mean()),
        bins=found,
    )


def abstention(
    labels: Labels, probabilities: Probabilities, accuracy: float, *, compared: int = 1
) -> Abstention | None:
    """The lowest threshold at or above which `probabilities` (n, C) are right in `accuracy` of the images, surely.

    Surely: by the lower end of a one-sided Wilson interval. Chosen by the accuracy itself, on the same images, the
    threshold would fall short on every second set of new ones. Where the model is the best of `compared` by the same
    images, each of them might be the lucky one: the interval's risk is the 5 % divided by their number (Bonferroni),
    which holds however alike they are. None where no threshold is sure enough, for lack of accuracy or of images. A
    threshold is met by images of equal confidence together.
    """
    two_sided = 1 - 2 * RISK / compared
    confidence, right = _confidence(labels, probabilities)
    order = np.argsort(-confidence, kind="stable")
    confidence, correct = confidence[order], right[order].cumsum()
    answered = np.arange(1, len(order) + 1)
    last_of_equals = np.append(confidence[1:] < confidence[:-1], True)
    for row in reversed(np.flatnonzero(last_of_equals & (correct >= accuracy * answered)).tolist()):
        n, hits = row + 1, int(correct[row])
        at_least, _ = wilson(hits, n, two_sided)
        if at_least >= accuracy:
            return Abstention(float(confidence[row]), n / len(order), hits / n, at_least, compared)
    return None


def _confidence(labels: Labels, probabilities: Probabilities) -> tuple[Probabilities, npt.NDArray[np.bool_]]:
    """(n,) probability of the class that each image is taken for, and (n,) whether it is that class."""
    chosen = probabilities.argmax(axis=1)
    return probabilities[np.arange(len(chosen)), chosen], chosen == labels


def _numbers(confidence: Probabilities, bins: int) -> npt.NDArray[np.int64]:
    """(n,) the bin of each image: (0, 1/bins] is 0."""
    return np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)


def _bins(confidence: Probabilities, right: npt.NDArray[np.bool_], bins: int) -> tuple[Bin, ...]:
    numbers = _numbers(confidence, bins)
    inside = [(number, numbers == number) for number in np.unique(numbers).tolist()]
    return tuple(
        Bin(k / bins, (k + 1) / bins, int(rows.sum()), float(confidence[rows].mean()), float(right[rows].mean()))
        for k, rows in inside
    )


def _chance_ece(confidence: Probabilities, bins: int) -> float:
    variance = np.bincount(_numbers(confidence, bins), weights=confidence * (1 - confidence), minlength=bins)
    return float(np.sqrt(2 / np.pi * variance).sum() / len(confidence))
