"""The images of a report: examples of each class, mistakes, saliency; as PNG data URIs, small enough for hundreds."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from hpo.data import Part
from hpo.evaluation.calibration import Probabilities
from hpo.explain import Saliency, overlay
from hpo.report.model_data import ModelWithData

SIDE = 96
"""Largest side of an image on the page, in pixels: at worst 37 kB each."""

SMALL = 56
"""Largest side of an image if there are many."""


def data_uri(image: npt.NDArray[np.uint8], side: int = SIDE) -> str:
    """Return (H, W, 3) uint8 RGB as `data:image/png;base64,…`, reduced to a larger side of at most `side` pixels."""
    picture = Image.fromarray(image)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    written = io.BytesIO()
    picture.save(written, format="png", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(written.getvalue()).decode()}"


MOST_EXAMPLES = 96
"""Images of all classes together."""

MOST_PER_CLASS = 6

MOST_PER_PAIR = 8

MOST_LOOKS = 8
"""Most correct predictions with saliency, and most wrong ones."""


@dataclass(frozen=True)
class Shown:
    """One image on the page."""

    uri: str
    name: str
    """Name of the file, readable."""
    true: str = ""
    predicted: str = ""
    confidence: float = 0.0
    heat: str = ""
    """The same image blended with its saliency, as a URI."""


def examples(part: Part, classes: int) -> dict[int, list[Shown]]:
    """Return class number -> a random but fixed sample of its images, smaller if there are many classes."""
    each = int(np.clip(MOST_EXAMPLES // max(1, classes), 1, MOST_PER_CLASS))
    side = SIDE if classes <= 16 else SMALL
    generator = np.random.default_rng(0)
    found: dict[int, list[Shown]] = {}
    for label in np.unique(part.labels)[:MOST_EXAMPLES].tolist():
        rows = np.flatnonzero(part.labels == label)
        chosen = np.sort(generator.permutation(rows)[:each])
        found[label] = [Shown(data_uri(image, side), part.names[row]) for row, image in _images(part, chosen)]
    return found


def mistakes(
    part: Part, probabilities: Probabilities, pair: tuple[int, int], classes: Sequence[str]
) -> list[Shown]:  # fmt: skip
    """Return images of class `pair[0]` that were classified as `pair[1]`, the most confident first."""
    rows = np.flatnonzero((part.labels == pair[0]) & (probabilities.argmax(axis=1) == pair[1]))
    rows = rows[np.argsort(-probabilities[rows, pair[1]], kind="stable")][:MOST_PER_PAIR]
    return [
        Shown(data_uri(image), part.names[row], classes[pair[0]], classes[pair[1]], float(probabilities[row, pair[1]]))
        for row, image in _images(part, rows)
    ]


@dataclass(frozen=True)
class SaliencyExamples:
    """Validation images with their saliency for the predicted class."""

    right: list[Shown]
    """A typical image of each class."""
    wrong: list[Shown]
    """The most confident mistakes."""
    method: str
    """Name of the saliency method."""


def saliency_examples(model: ModelWithData) -> SaliencyExamples:
    """Return the saliency of some correct and some wrong predictions; raise ModelError if no method supports it."""
    explain = Saliency.of(model.model.networks, model.model.image_size, model.model.device)
    predicted = model.predicted
    confidence = model.probabilities.max(axis=1)
    right = predicted == model.part.labels
    wrong = np.flatnonzero(~right)
    wrong = wrong[np.argsort(-confidence[wrong], kind="stable")][:MOST_LOOKS]
    typical = _typical(model.part.labels, confidence, right)
    return SaliencyExamples(_explained(model, explain, typical), _explained(model, explain, wrong), explain.method)


def _typical(
    labels: npt.NDArray[np.int64], confidence: npt.NDArray[np.float64], right: npt.NDArray[np.bool_]
) -> npt.NDArray[np.int64]:
    """Return the correct image of median confidence of each class, of at most MOST_LOOKS classes, the largest ones."""
    present, counts = np.unique(labels[right], return_counts=True)
    common = np.sort(present[np.argsort(-counts, kind="stable")][:MOST_LOOKS])
    rows = []
    for label in common.tolist():
        inside = np.flatnonzero(right & (labels == label))
        rows.append(int(inside[np.argsort(confidence[inside], kind="stable")[len(inside) // 2]]))
    return np.array(rows, dtype=np.int64)


def _explained(model: ModelWithData, explain: Saliency, rows: npt.NDArray[np.int64]) -> list[Shown]:
    if not len(rows):
        return []
    part, predicted, names = model.part, model.predicted, model.model.classes
    images = part.batch(rows)
    heats = explain(images, predicted[rows].tolist())
    return [
        Shown(
            data_uri(image), part.names[row], names[part.labels[row]], names[predicted[row]],
            float(model.probabilities[row, predicted[row]]), data_uri(overlay(image, heat)),
        )
        for row, image, heat in zip(rows.tolist(), images, heats, strict=True)
    ]  # fmt: skip


def _images(part: Part, rows: npt.NDArray[np.int64]) -> list[tuple[int, Any]]:
    return list(zip(rows.tolist(), part.batch(rows), strict=True))
