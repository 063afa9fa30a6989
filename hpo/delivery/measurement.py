"""What a model does on labelled images: its report, how far its probabilities can be believed, what views add."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpo.data import Part, Progress
from hpo.delivery.inputs import Images
from hpo.delivery.model import BATCH_SIZE, Logits, Model
from hpo.delivery.tta import VIEWS, Tta
from hpo.evaluation.calibration import Probabilities, Reliability, log_probabilities, probabilities, reliability
from hpo.evaluation.metrics import Labels, Report, report


@dataclass(frozen=True)
class Averaged:
    """The same images, each answer the mean over several views."""

    tta: Tta
    views: int
    report: Report
    reliability: Reliability
    gained: int
    """Images that are right by the views and wrong without."""
    lost: int
    """The other way round."""

    def to_dict(self, plain: Report) -> dict[str, Any]:
        """JSON-ready: the report, and its gain over the `plain` one in accuracy."""
        counts = {"views": self.views, "gained": self.gained, "lost": self.lost}
        gain = self.report.accuracy - plain.accuracy
        told = {"calibration": self.reliability.to_dict(), **self.report.to_dict()}
        return {"tta": self.tta, "gain": gain, **counts, **told}


@dataclass(frozen=True)
class Measurement:
    """A model on some images."""

    report: Report
    """Of the logits as they are; calibration leaves all of it but the loss."""
    temperature: float | None
    """The bundle's; None where it is not calibrated."""
    before: Reliability
    """At temperature 1."""
    after: Reliability
    """Of the probabilities that `predict` gives."""
    averaged: Averaged | None = None
    """With test-time augmentation, where it was asked for."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: the report's keys, `calibration` and `tta`."""
        scaled = {"temperature": self.temperature, "before": self.before.to_dict(), "after": self.after.to_dict()}
        tta = self.averaged.to_dict(self.report) if self.averaged else None
        return {**self.report.to_dict(), "calibration": scaled, "tta": tta}


def examine(
    model: Model, part: Part, *, tta: Tta = "none", batch_size: int = BATCH_SIZE, progress: Progress | None = None
) -> Measurement:
    """Measure `model` on all images of `part`, `batch_size` in memory at a time."""
    logits, means = _seen(model, _batches(part, batch_size, progress), tta)
    plain = probabilities(logits, model.temperature)
    return Measurement(
        report=report(part.labels, logits, model.classes),
        temperature=model.temperature if model.bundle.manifest.calibration else None,
        before=reliability(part.labels, probabilities(logits)),
        after=reliability(part.labels, plain),
        averaged=None if tta == "none" else _averaged(part.labels, plain, means, tta, model.classes),
    )


def _seen(model: Model, batches: Iterator[Images], tta: Tta) -> tuple[Logits, Probabilities]:
    """(n, C) logits of the images as they are, and (n, C) mean probabilities over the views."""
    logits, means = [], []
    for batch in batches:
        views = model.view_logits(batch, tta)
        logits.append(views[0])
        means.append(model.calibrated(views))
    return np.concatenate(logits), np.concatenate(means)


def _averaged(
    labels: Labels, plain: Probabilities, means: Probabilities, tta: Tta, classes: tuple[str, ...]
) -> Averaged:
    before, after = (rows.argmax(axis=1) == labels for rows in (plain, means))
    return Averaged(
        tta=tta,
        views=len(VIEWS[tta]),
        report=report(labels, log_probabilities(means).astype(np.float32), classes),
        reliability=reliability(labels, means),
        gained=int((after & ~before).sum()),
        lost=int((before & ~after).sum()),
    )


def _batches(part: Part, size: int, progress: Progress | None) -> Iterator[Images]:
    for start in range(0, len(part), size):
        rows = np.arange(start, min(start + size, len(part)))
        yield part.batch(rows)
        if progress is not None:
            progress(int(rows[-1]) + 1, len(part))
