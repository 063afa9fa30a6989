"""How likely a label is wrong where a classifier disagrees with it: estimated from all labels of the data set together.

A classifier that is sure of another class is wrong too, on hard images. How often is seen in the data themselves: with
falling probability of the given label, a classifier's own mistakes become rare at a rate that follows from how sure it
is, and wrong labels do not. A label y of an image is therefore taken to be drawn with the probability

    (1 - rate) q[y] + rate (1 - q[y]) / (C - 1)

with q the classifier's probabilities to the power `sharpness`, scaled to the sum 1. The second part is a wrong label:
the image has another class, and any label is as likely as any other. The two numbers are fitted by maximum likelihood
(expectation and maximisation for the rate, Dempster, Laird and Rubin 1977); the probability that a label is wrong is
the share of the second part.

Wrong labels that people confuse for the same reason as the classifier look like its mistakes, and count as such: the
rate is rather too small than too large. Where nothing points to wrong labels it is 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hpo.data.dataset import Labels

Floats = npt.NDArray[np.float64]

SHARPNESS = tuple(np.geomspace(0.2, 4, 13).tolist())
"""The exponents that are tried, and then some between the best one and its neighbours."""

ITERATIONS = 40

FIRST_RATE = 0.01

PRIOR = 2.0
"""Right labels that are believed in before any is seen."""

LEAST = 1e-12


@dataclass(frozen=True)
class LabelNoise:
    """The estimate for m labels."""

    rate: float
    """The share of labels that are wrong; 0 where the classifier's own mistakes explain all that it disagrees with."""
    sharpness: float
    """1 where the classifier is as sure as it may be, less where it is too sure."""
    probability: Floats
    """(m,) the probability of each label to be wrong."""


def estimate_label_noise(probabilities: Floats, labels: Labels) -> LabelNoise:
    """Return how likely each label (m,) is wrong, by probabilities (m, C) of a classifier that has not seen it."""
    count, classes = probabilities.shape
    if count == 0 or classes < 2:
        return LabelNoise(0.0, 1.0, np.zeros(count))
    logs = np.log(np.maximum(probabilities, LEAST))
    logs -= logs[np.arange(count), labels][:, None]
    fits = {sharpness: _fit(logs, sharpness) for sharpness in SHARPNESS}
    best = max(fits, key=lambda one: fits[one][0])
    step = SHARPNESS[1] / SHARPNESS[0]
    fits |= {
        one: _fit(logs, one) for one in (best * step**-0.5, best * step**-0.25, best * step**0.25, best * step**0.5)
    }
    best = max(fits, key=lambda one: fits[one][0])
    _, rate, probability = fits[best]
    return LabelNoise(rate, best, probability)


def _fit(logs: Floats, sharpness: float) -> tuple[float, float, Floats]:
    """Return log-likelihood, rate and probabilities for the logarithms (m, C) of p[j] / p[label]."""
    count, classes = logs.shape
    right = 1 / np.exp(np.minimum(sharpness * logs, 500)).sum(axis=1)
    wrong = (1 - right) / (classes - 1)
    rate, share = FIRST_RATE, np.zeros(count)
    for _ in range(ITERATIONS):
        share = rate * wrong / ((1 - rate) * right + rate * wrong)
        rate = float(share.sum()) / (count + PRIOR)
    return float(np.log((1 - rate) * right + rate * wrong).sum()), rate, share
