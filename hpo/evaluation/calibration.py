"""Calibration of a model's probabilities, temperature scaling, and abstention.

Temperature scaling (Guo et al. 2017, On Calibration of Modern Neural Networks) divides all logits by one T > 0. The
ranking of the classes does not change, so the accuracy does not either. With few images the T of least NLL is mostly
noise and made probabilities of new images worse; `fit_temperature` therefore shrinks it towards 1, and returns 1 unless
the images show that another T is better. Measured on the images that it was fitted to, T looks slightly better than it
is; `held_out` measures each image under a T that was fitted without it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq

from hpo.data.dataset import Labels
from hpo.evaluation.metrics import AnyLogits, wilson

Probabilities = npt.NDArray[np.float64]

BINS = 15

COLDEST, HOTTEST = 0.01, 100.0
"""Bounds of a fitted temperature."""

FOLDS = 5

SPREAD = float(np.log(2)) / 2
"""Prior standard deviation of log T: two of three T are within a factor of sqrt(2) of 1."""

RISK = 0.05
"""Probability that the answers above a threshold are correct less often than requested."""


@dataclass(frozen=True)
class Bin:
    """Images whose confidence, the probability of the predicted class, lies in (low, high]."""

    low: float
    high: float
    n: int
    confidence: float
    """Mean confidence."""
    accuracy: float


@dataclass(frozen=True)
class Reliability:
    """Agreement of probabilities with the labels."""

    ece: float
    """Expected calibration error: mean |accuracy - confidence| of the bins, weighted by their images."""
    chance_ece: float
    """Approximate ECE of a perfectly calibrated model on as many images; it is above 0 since each bin's mean varies."""
    brier: float
    """Mean squared distance to the one-hot label, summed over the classes, in [0, 2] (Brier 1950)."""
    nll: float
    """Mean negative log-likelihood, in nats."""
    bins: tuple[Bin, ...]
    """The bins that contain an image."""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return {**asdict(self), "bins": [asdict(one) for one in self.bins]}


@dataclass(frozen=True)
class Abstention:
    """A confidence below which a model should not answer, and the accuracy of its other answers."""

    threshold: float
    coverage: float
    """Share of the images at or above the threshold, among those that it was chosen on."""
    accuracy: float
    """Accuracy on the images at or above the threshold."""
    at_least: float
    """95 % lower bound of `accuracy` on new images, corrected for the choice among `compared` models."""
    compared: int = 1
    """Models that the proof allows for."""
    source: str = "validation"
    """The images that it was proved on: see `hpo.bundle.calibration_images.Source`."""
    best_of: int = 1
    """Models that were compared on these images before this one was chosen."""


def probabilities(logits: AnyLogits, temperature: float = 1.0) -> Probabilities:
    """Return the softmax over the last axis of `logits` / `temperature`: (…, C) float64."""
    scaled = logits.astype(np.float64) / temperature
    powers = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    result: Probabilities = powers / powers.sum(axis=-1, keepdims=True)
    return result


def log_probabilities(values: Probabilities) -> Probabilities:
    """Return the logarithms of probabilities; that of 0 is finite."""
    return np.log(np.maximum(values, np.finfo(np.float64).tiny))


def likeliest_temperature(labels: Labels, logits: AnyLogits) -> float:
    """Return the T in [0.01, 100] of least NLL for `logits` (n, C), `labels` (n,); n > 0.

    If every image is classified correctly, the likelihood has no finite optimum (T would be 0, every confidence 1), and
    the result is 1, which changes nothing.
    """
    return _temperature(labels, logits, None)


def fit_temperature(labels: Labels, logits: AnyLogits) -> float:
    """Return the T in [0.01, 100] to apply, from `logits` (n, C) and `labels` (n,); n > 0.

    T is the maximum a posteriori under a normal prior of log T with mean 0 and standard deviation `SPREAD`, which
    matters less the more images there are. It is used only if its mean gain in NLL over T = 1, minus the 1/(2n) that a
    fitted parameter gains on its own images by chance (Akaike 1974), exceeds one standard error of that mean (the
    one-standard-error rule of Breiman et al. 1984, Classification and Regression Trees); otherwise T is 1.
    """
    temperature, n = _temperature(labels, logits, SPREAD), len(labels)
    if n < 2:
        return 1.0
    gains = _losses(labels, logits, 1.0) - _losses(labels, logits, temperature)
    shown = gains.mean() - 1 / (2 * n) > gains.std(ddof=1) / np.sqrt(n)
    return temperature if shown else 1.0


def _temperature(labels: Labels, logits: AnyLogits, spread: float | None) -> float:
    """Return the T of least NLL, or the most probable T if log T has a prior with standard deviation `spread`.

    NLL is convex in 1/T, so its slope has one root; the prior's slope has its root at T = 1, and the root of the sum
    lies between the two.
    """
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    true = shifted[np.arange(len(labels)), labels]
    if (true == 0).all():
        return 1.0

    def slope(inverse: float) -> float:
        """Return d / d (1/T) of the mean loss, which is the mean of E_p[z] - z_y, plus that of the prior."""
        prior = np.log(inverse) / (spread**2 * inverse * len(labels)) if spread is not None else 0.0
        return float(((probabilities(shifted, 1 / inverse) * shifted).sum(axis=1) - true).mean() + prior)

    low, high = 1 / HOTTEST, 1 / COLDEST
    if slope(low) >= 0:
        return HOTTEST
    if slope(high) <= 0:
        return COLDEST
    return 1 / float(brentq(slope, low, high, rtol=1e-10))


def _losses(labels: Labels, logits: AnyLogits, temperature: float) -> Probabilities:
    """Return the (n,) negative log-likelihoods of the images."""
    rows = probabilities(logits, temperature)
    losses: Probabilities = -log_probabilities(rows[np.arange(len(labels)), labels])
    return losses


def held_out(labels: Labels, logits: AnyLogits, *, folds: int = FOLDS, seed: int = 0) -> Probabilities | None:
    """Return (n, C) probabilities, each image's under the temperature of the other folds.

    The result is None if there are fewer images than folds.
    """
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
    """Return the calibration of `probabilities` (n, C), whose rows sum to 1, for `labels` (n,); n > 0.

    ECE follows Guo et al. 2017: `bins` of equal width over the confidence. It is biased upwards, and the bias grows as
    the number of images falls (Roelofs et al. 2022). `chance_ece` estimates the bias: the mean of k Bernoulli variables
    deviates from its expectation by about sqrt(2 / pi) standard deviations.
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
    """Return the lowest threshold at or above which a share `accuracy` of `probabilities` (n, C) is reliably correct.

    Reliably means by the lower end of a one-sided Wilson interval: a threshold chosen by the accuracy itself would miss
    it on every second set of new images. If the model is the best of `compared` on the same images, the risk of 5 % is
    divided by their number (Bonferroni), which is valid for any dependence between them. None if no threshold
    qualifies, because of too little accuracy or too few images. Images of equal confidence pass a threshold together.
    """
    return abstention_by(*_confidence(labels, probabilities), accuracy, compared=compared)


def abstention_by(
    confidence: Probabilities, right: npt.NDArray[np.bool_], accuracy: float, *, compared: int = 1
) -> Abstention | None:
    """Return what `abstention` does, by the (n,) probabilities of the predicted classes and whether they are right."""
    two_sided = 1 - 2 * RISK / compared
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
    """Return the (n,) probabilities of the predicted classes, and (n,) whether the predictions are correct."""
    chosen = probabilities.argmax(axis=1)
    return probabilities[np.arange(len(chosen)), chosen], chosen == labels


def _numbers(confidence: Probabilities, bins: int) -> npt.NDArray[np.int64]:
    """Return the (n,) bin numbers of the images; bin 0 is (0, 1/bins]."""
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
