"""Measure a model on labelled images: its report, how well its probabilities are calibrated, what views gain."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from hpo.bundle.model import BATCH_SIZE, VIEWS, Model, Tta
from hpo.data import Part, Progress
from hpo.data.dataset import Images, Labels
from hpo.evaluation.calibration import Probabilities, Reliability, log_probabilities, probabilities, reliability
from hpo.evaluation.metrics import Logits, Report, report


@dataclass(frozen=True)
class AveragedViews:
    """A measurement of the mean over several views of each image (test-time augmentation)."""

    tta: Tta
    views: int
    report: Report
    reliability: Reliability
    gained: int
    """Images that are right with the views and wrong without."""
    lost: int
    """Images that are wrong with the views and right without."""

    def to_dict(self, plain: Report) -> dict[str, Any]:
        """Return JSON-ready values: the report, and its gain in accuracy over the `plain` one."""
        gain = self.report.accuracy - plain.accuracy
        counts = {"views": self.views, "gained": self.gained, "lost": self.lost}
        return {
            "tta": self.tta, "gain": gain, **counts,
            "calibration": self.reliability.to_dict(), **self.report.to_dict(),
        }  # fmt: skip


class PredictedImages(NamedTuple):
    """Labelled images with what a model predicts for them."""

    labels: Labels
    """(n,) int64."""
    rows: Probabilities
    """(n, C) calibrated probabilities."""


@dataclass(frozen=True)
class ModelMeasurement:
    """A model, measured on some images."""

    report: Report
    """The report on the unchanged images. Calibration changes nothing of it but the loss, which is without it."""
    temperature: float | None
    """The bundle's; None where it is not calibrated."""
    before: Reliability
    """At temperature 1."""
    after: Reliability
    """At the bundle's temperature, as `Model.predict` gives the probabilities."""
    predicted: PredictedImages
    """The probabilities behind it, without test-time augmentation."""
    averaged: AveragedViews | None = None
    """With test-time augmentation, where it was asked for."""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values: the report's keys, `calibration` and `tta`."""
        scaled = {"temperature": self.temperature, "before": self.before.to_dict(), "after": self.after.to_dict()}
        tta = self.averaged.to_dict(self.report) if self.averaged else None
        return {**self.report.to_dict(), "calibration": scaled, "tta": tta}


def measure(
    model: Model, part: Part, *, tta: Tta = "none", batch_size: int = BATCH_SIZE, progress: Progress | None = None
) -> ModelMeasurement:
    """Measure `model` on all images of `part`, `batch_size` in memory at a time."""
    logits, means = _predict_views(model, part.batches(batch_size, progress), tta)
    plain = probabilities(logits, model.temperature)
    return ModelMeasurement(
        report=report(part.labels, logits, model.classes),
        temperature=model.temperature if model.bundle.manifest.calibration else None,
        before=reliability(part.labels, probabilities(logits)),
        after=reliability(part.labels, plain),
        predicted=PredictedImages(part.labels, plain),
        averaged=None if tta == "none" else _averaged(part.labels, plain, means, tta, model.classes),
    )


def _predict_views(model: Model, batches: Iterator[Images], tta: Tta) -> tuple[Logits, Probabilities]:
    """Return (n, C) logits of the unchanged images, and (n, C) mean probabilities over the views."""
    logits, means = [], []
    for batch in batches:
        views = model.view_logits(batch, tta)
        logits.append(views[0])
        means.append(model.calibrated(views))
    return np.concatenate(logits), np.concatenate(means)


def _averaged(
    labels: Labels, plain: Probabilities, means: Probabilities, tta: Tta, classes: tuple[str, ...]
) -> AveragedViews:
    before, after = (rows.argmax(axis=1) == labels for rows in (plain, means))
    return AveragedViews(
        tta=tta,
        views=len(VIEWS[tta]),
        report=report(labels, log_probabilities(means).astype(np.float32), classes),
        reliability=reliability(labels, means),
        gained=int((after & ~before).sum()),
        lost=int((before & ~after).sum()),
    )
