"""A model with the images that it may be shown and tested on: train and validation, never the locked test part.

What a report says of a model: its bundle, and of which model and which images each figure is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hpo.bundle.bundle import Bundle
from hpo.bundle.calibrate import altered_validation
from hpo.bundle.manifest import Manifest, Scores
from hpo.bundle.model import Model
from hpo.bundle.own_data import reopen_same
from hpo.bundle.stored_metrics import METRICS, calibration_in, report_of
from hpo.data import Dataset, Part, Progress
from hpo.evaluation.calibration import Probabilities, Reliability, held_out, probabilities, reliability
from hpo.evaluation.metrics import report

Counting = Callable[[str], AbstractContextManager[Progress | None]]
"""From what is counted to who hears of (done, total)."""


@dataclass(frozen=True)
class BenchOptions:
    """How a report is made."""

    cache: Path
    device: str = "auto"
    batch_size: int = 256
    """Images in memory at a time."""
    counting: Counting = lambda _: nullcontext()


@dataclass(frozen=True)
class ModelWithData:
    """A loaded bundle, its data set, and its present predictions on the validation part."""

    model: Model
    dataset: Dataset
    options: BenchOptions

    @classmethod
    def of(cls, bundle: Bundle, data: Path, options: BenchOptions) -> ModelWithData:
        """The bench for `bundle` and the data that it was made with; DataError for any other."""
        return cls(Model(bundle, options.device), open_data(bundle.manifest, data, options), options)

    @property
    def part(self) -> Part:
        """The validation part."""
        return self.dataset.val

    @property
    def seen(self) -> bool:
        """Whether the model has trained on the validation part."""
        return self.model.bundle.manifest.stage == "retrained"

    @cached_property
    def probabilities(self) -> Probabilities:
        """(n_val, C) float64: calibrated, of the model as it is now."""
        with self.options.counting("validation images") as progress:
            logits = self.model.logits_of(self.part.batches(self.options.batch_size, progress))
        return probabilities(logits, self.model.temperature)

    @property
    def predicted(self) -> npt.NDArray[np.int64]:
        """(n_val,) class numbers."""
        numbers: npt.NDArray[np.int64] = self.probabilities.argmax(axis=1)
        return numbers


def open_data(manifest: Manifest, data: Path, options: BenchOptions) -> Dataset:
    """`data` split as the bundle's was; DataError where it is other data."""
    with options.counting("decoding images") as progress:
        return reopen_same(
            manifest, data, options.cache, progress, maker="the model",
            way_out="give the same data, or leave --data out",
        )  # fmt: skip


@dataclass(frozen=True)
class Figures:
    """Scores of a model on a part of its data, and whose they are."""

    scores: Mapping[str, Any]
    """As `Report.to_dict` gives them."""
    part: str
    """In words: validation, test."""
    note: str = ""
    """What must be said beside each of these figures: that they are of another model, or of altered images."""


@dataclass(frozen=True)
class ModelData:
    """A bundle as it is read for a report."""

    bundle: Bundle
    place: str = ""
    """Where the bundle lies, as its user calls it; empty for one that was made for the report alone."""

    @property
    def manifest(self) -> Manifest:
        """All that config.json holds."""
        return self.bundle.manifest

    @property
    def retrained(self) -> bool:
        """Whether the model has trained on the validation part, so that what is known of that part is its trial's."""
        return self.manifest.stage == "retrained"

    @property
    def trial(self) -> str:
        """The trial that a retrained model has its recipe from, in words."""
        return f"trial {self.manifest.trial} of study {self.manifest.study}"

    @cached_property
    def validation(self) -> Figures | None:
        """On the validation part; of a retrained bundle those of its trial. None where none are known."""
        stored: Mapping[str, Any] | None = self.bundle.metrics.get("validation")
        found = self.bundle.validation
        if stored is None and found is not None:
            stored = report(found.labels, found.logits, self.manifest.classes).to_dict()
        scores = self._scores(stored, "validation") if stored else None
        if scores is None:
            return None
        return Figures(scores, "validation", self._whose(altered_validation(self.manifest.config)))

    def _whose(self, altered: str | None) -> str:
        images = f" Its images were altered: {altered}." if altered else ""
        if not self.retrained:
            return f"Not plain images: {altered}." if altered else ""
        return (
            f"These figures are of {self.trial}, where this model has its recipe from, and not of this model: it has "
            f"trained on the validation part, and the bundle holds no figures of its own.{images}"
        )

    @property
    def test(self) -> Figures | None:
        """Of this very model on the test part, where a retraining has measured it."""
        stored: Mapping[str, Any] | None = self.bundle.metrics.get("test")
        scores = self._scores(stored, "test") if stored else None
        return Figures(scores, "test") if scores else None

    def _scores(self, stored: Mapping[str, Any], key: str) -> Mapping[str, Any] | None:
        """A report of metrics.json, checked, and what stands beside it; None where only its accuracy is kept."""
        found = report_of(stored, f"{self.bundle.path / METRICS}: {key}")
        return {**stored, **found.to_dict()} if found else None

    @property
    def figures(self) -> Figures | None:
        """What the page shows of the model: its own figures on the test where it has been measured there."""
        return self.test or self.validation

    @property
    def openings(self) -> list[Mapping[str, Any]]:
        """Every look at a test part."""
        return list(self.bundle.metrics.get("test_openings", []))

    @cached_property
    def calibration(self) -> CalibrationData | None:
        """On the images of `figures`; None where too little is known of them."""
        if self.test is not None:
            return _measured(self.test, str(self.bundle.path / METRICS))
        found, stored = self.bundle.validation, self.manifest.calibration
        if found is None or not len(found.labels) or altered_validation(self.manifest.config):
            return None
        before = reliability(found.labels, probabilities(found.logits))
        return CalibrationData(
            temperature=self.manifest.temperature,
            n=len(found.labels),
            before=before,
            after=self._after(stored.held_out) if stored else None,
            fitted=stored is not None,
        )

    def _after(self, known: Scores | None) -> Reliability | None:
        """The bins under cross-validated temperatures, with the scores that are `known` from when the model was made.

        Of an ensemble or a soup each image is as members say that were chosen without it, where the bundle has that.
        """
        validation = self.bundle.validation
        assert validation is not None
        logits = validation.logits if self.bundle.crossed is None else self.bundle.crossed
        crossed = held_out(validation.labels, logits)
        if crossed is None:
            return None
        found = reliability(validation.labels, crossed)
        return replace(found, **known.model_dump()) if known else found


@dataclass(frozen=True)
class CalibrationData:
    """Probabilities on the images of `ModelData.figures`, as trained and with the temperature that is applied."""

    temperature: float
    n: int
    before: Reliability
    after: Reliability | None
    """On the validation part each image under a temperature that was fitted without it; None for too few images."""
    fitted: bool
    """Whether there is a temperature."""


def _measured(figures: Figures, source: str) -> CalibrationData | None:
    """What was measured on the test part; None where the bundle is from before that was kept."""
    stored = figures.scores.get("calibration")
    if not stored:
        return None
    found = calibration_in(stored, f"{source}: test.calibration")
    return CalibrationData(
        temperature=found.temperature or 1.0,
        n=int(figures.scores["n"]),
        before=found.before,
        after=found.after if found.temperature else None,
        fitted=found.temperature is not None,
    )
