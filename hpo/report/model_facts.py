"""What a report says of a model: its bundle, with the calibration of its predictions on the validation part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from hpo.delivery.bundle import Bundle
from hpo.delivery.manifest import Manifest, Scores
from hpo.delivery.validation import Validation
from hpo.evaluation.calibration import Reliability, fit_temperature, held_out, probabilities, reliability
from hpo.evaluation.metrics import report


@dataclass(frozen=True)
class ModelFacts:
    """A bundle as it is read for a report."""

    bundle: Bundle
    place: str = ""
    """Where the bundle lies, as its user calls it; empty for one that was made for the report alone."""

    @property
    def manifest(self) -> Manifest:
        """All that config.json holds."""
        return self.bundle.manifest

    @cached_property
    def scores(self) -> Mapping[str, Any] | None:
        """The report on the validation part as a dictionary; None where none is known.

        Of a retrained bundle it is that of the trial it comes from.
        """
        stored: Mapping[str, Any] | None = self.bundle.metrics.get("validation")
        found = self.bundle.validation
        if stored is None and found is not None:
            return report(found.labels, found.logits, self.manifest.classes).to_dict()
        return stored

    @property
    def test(self) -> Mapping[str, Any] | None:
        """The report on the test part, where a retraining has made one."""
        stored: Mapping[str, Any] | None = self.bundle.metrics.get("test")
        return stored

    @property
    def openings(self) -> list[Mapping[str, Any]]:
        """Every look at a test part."""
        return list(self.bundle.metrics.get("test_openings", []))

    @cached_property
    def calibration(self) -> CalibrationFacts | None:
        """None where the predictions on the validation part are not known."""
        found = self.bundle.validation
        if found is None or not len(found.labels):
            return None
        stored = self.manifest.calibration
        return CalibrationFacts(
            temperature=fit_temperature(found.labels, found.logits),
            n=len(found.labels),
            before=reliability(found.labels, probabilities(found.logits)),
            after=_after(found, stored.held_out if stored else None),
        )


@dataclass(frozen=True)
class CalibrationFacts:
    """Probabilities on the validation part, as trained and with a temperature."""

    temperature: float
    n: int
    before: Reliability
    after: Reliability | None
    """Each image under a temperature that was fitted without it; None for too few images."""


def _after(validation: Validation, known: Scores | None) -> Reliability | None:
    """The bins under cross-validated temperatures, with the scores that are `known` from when the model was made.

    Of an ensemble or a soup those are of members chosen without the image as well, which the predictions alone cannot
    tell.
    """
    crossed = held_out(*validation)
    if crossed is None:
        return None
    found = reliability(validation.labels, crossed)
    return replace(found, **known.model_dump()) if known else found
