"""The data of a model for its report: the figures of its bundle, and the loaded model with its images."""

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
from hpo.bundle.calibrate import augmented_validation
from hpo.bundle.manifest import Manifest, Scores
from hpo.bundle.model import Model
from hpo.bundle.own_data import reopen_same
from hpo.bundle.stored_metrics import METRICS, calibration_in, report_of
from hpo.data import Dataset, Part, Progress
from hpo.evaluation.calibration import Probabilities, Reliability, held_out, probabilities, reliability
from hpo.evaluation.metrics import report

Counting = Callable[[str], AbstractContextManager[Progress | None]]
"""Shows the progress of what it is given the name of."""


@dataclass(frozen=True)
class ReportOptions:
    """Where and how the model of a report is run."""

    cache: Path
    device: str = "auto"
    batch_size: int = 256
    """Images in memory at a time."""
    counting: Counting = lambda _: nullcontext()


@dataclass(frozen=True)
class ModelWithData:
    """A loaded bundle, its data set, and its predictions on the validation part; the test part stays locked."""

    model: Model
    dataset: Dataset
    options: ReportOptions

    @classmethod
    def of(cls, bundle: Bundle, data: Path, options: ReportOptions) -> ModelWithData:
        """Load `bundle` and open the data that it was made with; raise DataError for other data."""
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
        """(n_val, C) float64: calibrated probabilities of the model."""
        with self.options.counting("validation images") as progress:
            logits = self.model.logits_of(self.part.batches(self.options.batch_size, progress))
        return probabilities(logits, self.model.temperature)

    @property
    def predicted(self) -> npt.NDArray[np.int64]:
        """(n_val,) predicted class numbers."""
        numbers: npt.NDArray[np.int64] = self.probabilities.argmax(axis=1)
        return numbers


def open_data(manifest: Manifest, data: Path, options: ReportOptions) -> Dataset:
    """Open `data` with the split of the bundle; raise DataError for other data."""
    with options.counting("decoding images") as progress:
        return reopen_same(
            manifest, data, options.cache, progress, maker="the model",
            way_out="give the same data, or leave --data out",
        )  # fmt: skip


@dataclass(frozen=True)
class Figures:
    """Scores of a model on a part of its data."""

    scores: Mapping[str, Any]
    """The values of `Report.to_dict`."""
    part: str
    """validation or test."""
    note: str = ""
    """Text beside these figures if they are of another model or of augmented images."""


@dataclass(frozen=True)
class ModelData:
    """The figures of a bundle."""

    bundle: Bundle
    place: str = ""
    """The place of the bundle as its user gave it; empty for a bundle made only for the report."""

    @property
    def manifest(self) -> Manifest:
        """The content of config.json."""
        return self.bundle.manifest

    @property
    def retrained(self) -> bool:
        """Whether the model has trained on the validation part, so that figures of that part are those of its trial."""
        return self.manifest.stage == "retrained"

    @property
    def trial(self) -> str:
        """The trial whose configuration was retrained, in words."""
        return f"trial {self.manifest.trial} of study {self.manifest.study}"

    @cached_property
    def validation(self) -> Figures | None:
        """Figures on the validation part, of a retrained bundle those of its trial; None if unknown."""
        stored: Mapping[str, Any] | None = self.bundle.metrics.get("validation")
        found = self.bundle.validation
        if stored is None and found is not None:
            stored = report(found.labels, found.logits, self.manifest.classes).to_dict()
        scores = self._scores(stored, "validation") if stored else None
        if scores is None:
            return None
        return Figures(scores, "validation", self._whose(augmented_validation(self.manifest.config)))

    def _whose(self, augmented: str | None) -> str:
        images = f" Its images were augmented: {augmented}." if augmented else ""
        if not self.retrained:
            return f"Not plain images: {augmented}." if augmented else ""
        return (
            f"These figures are of {self.trial}, where this model has its recipe from, and not of this model: it has "
            f"trained on the validation part, and the bundle holds no figures of its own.{images}"
        )

    @property
    def test(self) -> Figures | None:
        """Figures of this model on the test part, if a retraining has measured them."""
        stored: Mapping[str, Any] | None = self.bundle.metrics.get("test")
        scores = self._scores(stored, "test") if stored else None
        return Figures(scores, "test") if scores else None

    def _scores(self, stored: Mapping[str, Any], key: str) -> Mapping[str, Any] | None:
        """Return the checked report in metrics.json with the values beside it; None if only the accuracy is kept."""
        found = report_of(stored, f"{self.bundle.path / METRICS}: {key}")
        return {**stored, **found.to_dict()} if found else None

    @property
    def figures(self) -> Figures | None:
        """The figures that the page shows: those on the test part if they exist, else on the validation part."""
        return self.test or self.validation

    @property
    def openings(self) -> list[Mapping[str, Any]]:
        """Every recorded access to a test part."""
        return list(self.bundle.metrics.get("test_openings", []))

    @cached_property
    def calibration(self) -> CalibrationData | None:
        """Calibration on the images of `figures`; None if the bundle does not have it."""
        if self.test is not None:
            return _measured(self.test, str(self.bundle.path / METRICS))
        found, stored = self.bundle.validation, self.manifest.calibration
        if found is None or not len(found.labels) or augmented_validation(self.manifest.config):
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
        """Return the reliability under cross-validated temperatures, with the scores that the manifest has."""
        # For an ensemble or a soup, `crossed` has logits from members that were chosen without the image.
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
    """On the validation part, each image under a temperature fitted without it; None for too few images."""
    fitted: bool
    """Whether a temperature was fitted."""


def _measured(figures: Figures, source: str) -> CalibrationData | None:
    """Return the calibration on the test part; None for bundles from before it was stored."""
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
