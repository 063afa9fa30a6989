"""The class that a model predicted for each validation image, in few bytes, and the standard error that follows.

A trial keeps its outcomes when its checkpoint is gone, so that any two trials can be compared on the same images.

A metric on n images is approximately its expectation plus a sum of one influence for each image (the infinitesimal
jackknife: Efron 1982, The Jackknife, the Bootstrap and Other Resampling Plans, chapter 6). The sum of their squares is
the variance that a bootstrap over images approaches with many resamples; for accuracy it is p (1 - p) / n. An altered
image adds its influence to that of the image that it shows, so copies of one image count as one.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hpo.data.dataset import Labels, Rows
from hpo.evaluation.metrics import AnyLogits, Counts, Ratios, metric_of

MOST_IMAGES = 20_000
"""Validation images whose outcomes are kept; of more, a fixed random sample."""

MOST_CLASSES = 60_000

VERSION = 1

_MOST_TEXT = 1_000_000
"""Characters of an encoded value, more than MOST_IMAGES images can need."""

_MOST_BYTES = 10 * MOST_IMAGES + 4 * MOST_CLASSES + 16
"""Bytes of a decompressed value: nothing longer is read."""

_Codes = npt.NDArray[np.uint16]

_ByImage = Callable[[Labels, Labels, int, str], Ratios]
"""Gives a figure of each image, (n,), from labels, predictions, the number of classes and the metric."""


@dataclass(frozen=True)
class Outcomes:
    """Labels and predicted classes of validation images, ordered by class; and of altered images of some of them."""

    labels: Labels
    """(n,) int64, ascending."""
    predicted: Labels
    """(n,) int64."""
    classes: int
    altered_rows: Rows
    """(m,) the positions here of the images that the altered ones show, ascending; empty without an altered part."""
    altered_predicted: Labels
    """(m,) int64."""

    @classmethod
    def of(
        cls,
        labels: Labels,
        logits: AnyLogits,
        altered_logits: AnyLogits | None = None,
        altered_rows: Rows | None = None,
    ) -> Outcomes:
        """Return the outcomes of `logits` (n, C) for `labels` (n,), n > 0.

        `altered_logits` (m, C) are those of altered images, each of the validation image at `altered_rows` (m,).
        """
        order = np.argsort(labels, kind="stable")
        if altered_logits is None or altered_rows is None:
            altered_logits, altered_rows = np.zeros((0, logits.shape[1]), np.float32), np.zeros(0, np.int64)
        place = np.empty(len(labels), np.int64)
        place[order] = np.arange(len(labels))
        rows = place[altered_rows]
        altered = np.argsort(rows, kind="stable")
        return cls(
            labels[order].astype(np.int64),
            logits.argmax(axis=1)[order].astype(np.int64),
            logits.shape[1],
            rows[altered],
            altered_logits.argmax(axis=1)[altered].astype(np.int64),
        )

    def __len__(self) -> int:
        return len(self.labels)

    def sampled(self) -> Outcomes:
        """Return at most MOST_IMAGES of the images, the same ones for the same labels."""
        count = len(self)
        if count <= MOST_IMAGES:
            return self
        kept = np.zeros(count, np.bool_)
        kept[np.random.default_rng(0).permutation(count)[:MOST_IMAGES]] = True
        place = np.cumsum(kept) - 1
        altered = kept[self.altered_rows]
        return Outcomes(
            self.labels[kept], self.predicted[kept], self.classes,
            place[self.altered_rows[altered]], self.altered_predicted[altered],
        )  # fmt: skip

    def same_images(self, other: Outcomes) -> bool:
        """Return whether the images of both have the same labels, and the same of them are altered."""
        return np.array_equal(self.labels, other.labels) and np.array_equal(self.altered_rows, other.altered_rows)

    def value(self, metric: str, robustness: float = 0.0) -> float:
        """Return the value of a trial with these outcomes."""
        clean = metric_of(_confusion(self.labels, self.predicted, self.classes), metric)
        if not robustness or not len(self.altered_rows):
            return clean
        labels = self.labels[self.altered_rows]
        altered = metric_of(_confusion(labels, self.altered_predicted, self.classes), metric)
        return (1 - robustness) * clean + robustness * altered

    def influences(self, metric: str, robustness: float = 0.0) -> Ratios:
        """Return (n,) float64: what each image adds to the value beside its expectation; their sum is 0."""
        return self._by_image(influences, metric, robustness)

    def contributions(self, metric: str, robustness: float = 0.0) -> Ratios:
        """Return (n,) float64: what each image contributes to the value, which is their sum."""
        return self._by_image(contributions, metric, robustness)

    def _by_image(self, share: _ByImage, metric: str, robustness: float) -> Ratios:
        """Return (n,): the share of each image in the value, with those of the altered images that show it."""
        clean = share(self.labels, self.predicted, self.classes, metric)
        if not robustness or not len(self.altered_rows):
            return clean
        altered = share(self.labels[self.altered_rows], self.altered_predicted, self.classes, metric)
        shown = np.bincount(self.altered_rows, weights=altered, minlength=len(self))
        return (1 - robustness) * clean + robustness * shown

    def standard_error(self, metric: str, robustness: float = 0.0) -> float:
        """Return the standard error of the value over samples of as many images.

        Where all images are right (for accuracy), or all of a class (for the other metrics), their influences are 0;
        they have the error of one image then, as no finite sample shows that a model never errs.
        """
        least = _certain(self.labels, self.predicted, self.classes, metric, np.arange(len(self)))
        if robustness and len(self.altered_rows):
            rows = self.altered_rows
            altered = _certain(self.labels[rows], self.altered_predicted, self.classes, metric, rows)
            least = (1 - robustness) ** 2 * least + robustness**2 * altered
        return float(np.sqrt((self.influences(metric, robustness) ** 2).sum() + least))

    def encode(self) -> str:
        """Return ASCII text of some hundred characters for some thousand images, the better the more are right."""
        width = "<u1" if self.classes < 255 else "<u2"
        labels = self.labels[self.altered_rows]
        content = b"".join(
            (
                np.array([VERSION, self.classes, len(self.altered_rows)], "<u4").tobytes(),
                np.bincount(self.labels, minlength=self.classes).astype("<u4").tobytes(),
                _coded(self.labels, self.predicted).astype(width).tobytes(),
                np.bincount(self.altered_rows, minlength=len(self)).astype("<u1").tobytes(),
                _coded(labels, self.altered_predicted).astype(width).tobytes(),
            )
        )
        return base64.b64encode(zlib.compress(content, 9)).decode("ascii")

    @classmethod
    def decode(cls, text: str) -> Outcomes:
        """Return what `encode` gave; ValueError for any other text."""
        content = _decompressed(text)
        version, classes, altered = (int(number) for number in _read(content, 0, 3, "<u4"))
        if version != VERSION or not 0 < classes <= MOST_CLASSES:
            raise ValueError(f"outcomes of version {version} with {classes} classes cannot be read")
        counts = _read(content, 12, classes, "<u4").astype(np.int64)
        count, width = int(counts.sum()), "<u1" if classes < 255 else "<u2"
        size, start = np.dtype(width).itemsize, 12 + 4 * classes
        if len(content) != start + (size + 1) * count + size * altered:
            raise ValueError("outcomes have another length than their counts say")
        labels = np.repeat(np.arange(classes), counts)
        shown = _read(content, start + size * count, count, "<u1")
        rows = np.repeat(np.arange(count), shown)
        if len(rows) != altered:
            raise ValueError(f"outcomes of {altered} altered images show {len(rows)}")
        predicted = _decoded(labels, _read(content, start, count, width), classes)
        of_altered = _read(content, start + (size + 1) * count, altered, width)
        return cls(labels, predicted, classes, rows, _decoded(labels[rows], of_altered, classes))


def _coded(labels: Labels, predicted: Labels) -> Labels:
    """Return 0 for a right prediction, else 1 + the predicted class: mostly zeros, which compress well."""
    return np.where(labels == predicted, 0, predicted + 1)


def _decoded(labels: Labels, codes: _Codes, classes: int) -> Labels:
    if len(codes) and int(codes.max()) > classes:
        raise ValueError(f"outcomes name class {int(codes.max()) - 1}, but there are {classes}")
    return np.where(codes == 0, labels, codes.astype(np.int64) - 1)


def _decompressed(text: str) -> bytes:
    if len(text) > _MOST_TEXT:
        raise ValueError(f"outcomes of {len(text):,} characters are longer than any that are written")
    try:
        packed = base64.b64decode(text, validate=True)
        unpacker = zlib.decompressobj()
        content = unpacker.decompress(packed, _MOST_BYTES)
    except (binascii.Error, zlib.error) as error:
        raise ValueError(f"outcomes cannot be read: {error}") from None
    if not unpacker.eof:
        raise ValueError("outcomes are cut off, or longer than any that are written")
    return content


def _read(content: bytes, start: int, count: int, kind: str) -> _Codes:
    if start + count * np.dtype(kind).itemsize > len(content):
        raise ValueError("outcomes are shorter than their counts say")
    return np.frombuffer(content, kind, count, start)


def _confusion(labels: Labels, predicted: Labels, classes: int) -> Counts:
    return np.bincount(labels * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def influences(labels: Labels, predicted: Labels, classes: int, metric: str) -> Ratios:
    """Return (n,) float64: the influence of each image on the metric."""
    right: Ratios = (labels == predicted).astype(np.float64)
    found: Ratios
    support = np.bincount(labels, minlength=classes)
    hits = np.bincount(labels, weights=right, minlength=classes)
    if metric == "accuracy":
        found = (right - right.mean()) / len(labels)
    elif metric == "balanced_accuracy":
        recall = hits / np.maximum(support, 1)
        found = (right - recall[labels]) / (support[labels] * np.count_nonzero(support))
    else:
        # F1 of a class is 2 hits / (its images + predictions of it): a wrong image counts in two of the sums below.
        both = support + np.bincount(predicted, minlength=classes)
        share = 2 * hits / np.maximum(both, 1) ** 2
        found = (2 * right / both[labels] - share[labels] - share[predicted]) / np.count_nonzero(both)
    return found


def contributions(labels: Labels, predicted: Labels, classes: int, metric: str) -> Ratios:
    """Return (n,) float64: the influence of each image, and its even share of what its class adds to the metric.

    The difference of two models is uncertain by the sum of the squared differences of these. Influences alone would
    take a class of which one model has all images right and the other none for certain, were it of one image. For the
    accuracy it is the variance of McNemar's test.
    """
    right: Ratios = (labels == predicted).astype(np.float64)
    found: Ratios = right / len(labels)
    if metric == "accuracy":
        return found
    support = np.bincount(labels, minlength=classes)
    named = np.bincount(predicted, minlength=classes) if metric == "macro_f1" else support
    score = 2 * np.bincount(labels, weights=right, minlength=classes) / np.maximum(support + named, 1)
    found = influences(labels, predicted, classes, metric)
    found += score[labels] / (support[labels] * np.count_nonzero(support + named))
    return found


def _certain(labels: Labels, predicted: Labels, classes: int, metric: str, rows: Rows) -> float:
    """Return the variance to add for images whose influences are 0 because all are right, or all wrong.

    `rows` (n,) names the original image of each: several altered ones show one.
    """
    right = labels == predicted
    if metric == "accuracy":
        return 0.0 if 0 < right.mean() < 1 else len(np.unique(rows)) ** -2.0
    support = np.bincount(labels, minlength=classes)
    hits = np.bincount(labels[right], minlength=classes)
    originals = np.bincount(labels[np.unique(rows, return_index=True)[1]], minlength=classes)
    sure = (support > 0) & ((hits == 0) | (hits == support))
    return float((originals[sure] ** -2.0).sum() / np.count_nonzero(support) ** 2)
