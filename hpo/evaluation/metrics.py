"""Scores from labels and logits, and the report of one evaluation.

`scores` runs after every epoch and `report` once per evaluation. Both compute everything from one confusion matrix, so
they need only numpy, whose import is fast. Values equal scikit-learn's: balanced accuracy is the mean recall of the
classes that occur as labels, macro F1 the mean F1 of those that occur as labels or as predictions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from hpo.data.dataset import Labels

Logits = npt.NDArray[np.float32]
"""(n, C), the outputs of a network."""

AnyLogits = npt.NDArray[np.float32] | npt.NDArray[np.float64]

Counts = npt.NDArray[np.int64]

Ratios = npt.NDArray[np.float64]

WORST_PAIRS = 5

ALTERED = "altered_"
"""Begins the key of a metric on the altered part."""


@dataclass(frozen=True)
class ClassScore:
    """Scores of one class; 0 where the denominator is 0."""

    precision: float
    recall: float
    f1: float
    support: int
    """Images of this class."""


@dataclass(frozen=True)
class Confused:
    """Images of class `true` that were classified as `predicted`."""

    true: str
    predicted: str
    count: int
    share: float
    """`count` over the images of class `true`."""


@dataclass(frozen=True)
class Report:
    """One evaluation of a model on n images."""

    n: int
    accuracy: float
    interval: tuple[float, float]
    """95 % Wilson interval of the accuracy."""
    balanced_accuracy: float
    macro_f1: float
    loss: float
    """Mean negative log-likelihood, in nats."""
    labels: tuple[str, ...]
    """Class names in the order of `confusion`."""
    classes: dict[str, ClassScore]
    confusion: tuple[tuple[int, ...], ...]
    """Images by true class (rows) and predicted class (columns)."""
    worst_pairs: tuple[Confused, ...]
    """The most frequent mistakes, most frequent first."""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values: tuples as lists, nested values as dictionaries."""
        return {
            "accuracy": self.accuracy,
            "n": self.n,
            "balanced_accuracy": self.balanced_accuracy,
            "macro_f1": self.macro_f1,
            "interval": list(self.interval),
            "loss": self.loss,
            "classes": {name: asdict(score) for name, score in self.classes.items()},
            "confusion": [list(row) for row in self.confusion],
            "labels": list(self.labels),
            "worst_pairs": [asdict(pair) for pair in self.worst_pairs],
        }


def scores(labels: Labels, logits: AnyLogits) -> dict[str, float]:
    """Return accuracy, balanced_accuracy, macro_f1, loss for `logits` (n, C) float32, `labels` (n,) int64; n > 0."""
    confusion = confusion_matrix(labels, logits)
    return {
        "accuracy": _accuracy(confusion),
        "balanced_accuracy": _balanced_accuracy(confusion),
        "macro_f1": _macro_f1(confusion),
        "loss": _negative_log_likelihood(labels, logits),
    }


def combined(metrics: Mapping[str, float], metric: str, robustness: float) -> float:
    """Return the value of an epoch: 1 - `robustness` parts of `metric` on clean images, the rest on altered ones."""
    clean = metrics[metric]
    if not robustness:
        return clean
    return (1 - robustness) * clean + robustness * metrics[f"{ALTERED}{metric}"]


def metric_of(confusion: Counts, metric: str) -> float:
    """Return one metric of the (C, C) counts that `confusion_matrix` gives: accuracy, balanced_accuracy or macro_f1."""
    of = {"accuracy": _accuracy, "balanced_accuracy": _balanced_accuracy, "macro_f1": _macro_f1}
    return of[metric](confusion)


def report(labels: Labels, logits: AnyLogits, classes: Sequence[str]) -> Report:
    """Return the report on `logits` (n, C) float32, `labels` (n,) int64, n > 0; C names in label order."""
    if logits.shape[1] != len(classes):
        raise ValueError(f"logits have {logits.shape[1]} columns, but there are {len(classes)} classes")
    confusion = confusion_matrix(labels, logits)
    return Report(
        n=len(labels),
        accuracy=_accuracy(confusion),
        interval=wilson(int(confusion.trace()), len(labels)),
        balanced_accuracy=_balanced_accuracy(confusion),
        macro_f1=_macro_f1(confusion),
        loss=_negative_log_likelihood(labels, logits),
        labels=tuple(classes),
        classes=_class_scores(confusion, classes),
        confusion=tuple(tuple(row) for row in confusion.tolist()),
        worst_pairs=_worst_pairs(confusion, classes),
    )


def confusion_matrix(labels: Labels, logits: AnyLogits) -> Counts:
    """Return (C, C) int64 counts: row true class, column class of the largest logit."""
    if not len(labels) or len(labels) != len(logits):
        raise ValueError(f"{len(labels)} labels and {len(logits)} rows of logits; must be as many, above 0")
    count = logits.shape[1]
    cells = labels * count + logits.argmax(axis=1)
    return np.bincount(cells, minlength=count * count).reshape(count, count)


def wilson(correct: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the score interval of a proportion, `correct` of `n` > 0 (Wilson 1927, JASA 22:209-212)."""
    # Equal to scipy's binomtest(...).proportion_ci(method="wilson"), which is too slow for the loop of `abstention`.
    if not 0 <= correct <= n or n == 0:
        raise ValueError(f"{correct} correct of {n}, but must be 0 <= correct <= n and n > 0")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    proportion = correct / n
    centre = proportion + z * z / (2 * n)
    margin = z * (proportion * (1 - proportion) / n + z * z / (4 * n * n)) ** 0.5
    scale = 1 + z * z / n
    # The exact ends lie in [0, 1] and around the proportion; at 0 and n correct, rounding can move them outside.
    low, high = (centre - margin) / scale, (centre + margin) / scale
    return min(proportion, max(0.0, low)), max(proportion, min(1.0, high))


def _accuracy(confusion: Counts) -> float:
    return float(confusion.trace() / confusion.sum())


def _balanced_accuracy(confusion: Counts) -> float:
    present = confusion.sum(axis=1) > 0
    return float(_recall(confusion)[present].mean())


def _macro_f1(confusion: Counts) -> float:
    present = confusion.sum(axis=0) + confusion.sum(axis=1) > 0
    return float(_f1(confusion)[present].mean())


def _negative_log_likelihood(labels: Labels, logits: AnyLogits) -> float:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    log_normaliser = np.log(np.exp(shifted).sum(axis=1))
    return float((log_normaliser - shifted[np.arange(len(labels)), labels]).mean())


def _precision(confusion: Counts) -> Ratios:
    return _ratio(confusion.diagonal(), confusion.sum(axis=0))


def _recall(confusion: Counts) -> Ratios:
    return _ratio(confusion.diagonal(), confusion.sum(axis=1))


def _f1(confusion: Counts) -> Ratios:
    return _ratio(2 * confusion.diagonal(), confusion.sum(axis=0) + confusion.sum(axis=1))


def _ratio(part: Counts, whole: Counts) -> Ratios:
    """Return part / whole as float64, 0 where the whole is 0."""
    return part / np.maximum(whole, 1)


def _class_scores(confusion: Counts, classes: Sequence[str]) -> dict[str, ClassScore]:
    columns = (_precision(confusion), _recall(confusion), _f1(confusion), confusion.sum(axis=1))
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return {name: ClassScore(*row) for name, row in zip(classes, rows, strict=True)}


def _worst_pairs(confusion: Counts, classes: Sequence[str]) -> tuple[Confused, ...]:
    mistakes = confusion - np.diag(confusion.diagonal())
    support = confusion.sum(axis=1)
    order = np.argsort(-mistakes, axis=None, kind="stable")[:WORST_PAIRS]
    cells = zip(*np.unravel_index(order, mistakes.shape), strict=True)
    return tuple(
        Confused(classes[i], classes[j], int(mistakes[i, j]), float(mistakes[i, j] / support[i]))
        for i, j in cells
        if mistakes[i, j]
    )
