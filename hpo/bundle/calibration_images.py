"""The labelled images on which a bundle can prove thresholds and prediction sets, and what must be allowed for.

Validation images have chosen the model among others, so a proof on them allows for the number compared (`compared`).
Images of the test part have chosen nothing, unless several models were measured on it: then these are the number. Where
both are there, each proves with a number twice as large, and so the better of the two proofs may be taken (Bonferroni).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NoReturn

import numpy as np

from hpo.bundle.access_ledger import AccessCounts
from hpo.bundle.bundle import Bundle
from hpo.bundle.calibrate import augmented_validation, compared_with, joining_command
from hpo.bundle.stored_scores import stored_scores
from hpo.errors import BundleError
from hpo.evaluation.calibration import probabilities
from hpo.evaluation.conformal import ScoredImages
from hpo.hints import hint

Source = Literal["validation", "trial", "test"]
"""The part; `trial` is the validation part of a retrained model, with predictions of its trial, another model."""

SOURCES: dict[Source, str] = {
    "validation": "validation images",
    "trial": "validation images of the trial",
    "test": "test images",
}
"""The images of a source, in words."""


@dataclass(frozen=True)
class CalibrationImages:
    """Images of one source, with what the model predicts for them."""

    source: Source
    images: ScoredImages
    compared: int
    """The number of models that a proof on these images must allow for."""
    best_of: int
    """The number among which these images, or the readers of figures on them, chose this one."""


def calibration_images(bundle: Bundle, *, altered: bool = False, test: bool = True) -> list[CalibrationImages]:
    """Return the images that can prove something about a bundle, as they are or `altered`; [] where there are none.

    A retrained model is proved by the test part alone where that was measured, since on the validation part there are
    predictions of another model. Without `test` the test part is left out, as where it is measured.
    """
    found = [_on_test(bundle, altered=altered)] if test else []
    if bundle.manifest.stage != "retrained" or not any(found):
        found.append(_on_validation(bundle, altered=altered))
    known = [one for one in found if one is not None]
    return [replace(one, compared=one.best_of * len(known)) for one in known]


def _on_test(bundle: Bundle, *, altered: bool) -> CalibrationImages | None:
    stored = stored_scores(bundle, "test", altered=altered)
    if stored is None:
        return None
    images, test = stored
    openings = [one for one in bundle.metrics.get("test_openings", []) if one.get("test") == test]
    counts = AccessCounts.of(openings)
    models = max(1, counts.models + bool(counts.unnamed))
    return CalibrationImages("test", images, models, models)


def _on_validation(bundle: Bundle, *, altered: bool) -> CalibrationImages | None:
    """Return the stored predictions on the validation part that can prove something; None where there are none."""
    source: Source = "trial" if bundle.manifest.stage == "retrained" else "validation"
    images = _altered_validation(bundle) if altered else _clean_validation(bundle)
    if images is None:
        return None
    compared = compared_with(bundle.manifest)
    return CalibrationImages(source, images, compared, compared)


def _clean_validation(bundle: Bundle) -> ScoredImages | None:
    if why_unproved(bundle) is not None or bundle.validation is None:
        return None
    logits = bundle.validation.logits if bundle.crossed is None else bundle.crossed
    return ScoredImages.of(bundle.validation.labels, probabilities(logits, bundle.manifest.temperature))


def _altered_validation(bundle: Bundle) -> ScoredImages | None:
    """Return the altered images by which the search chose, else those that `evaluate --corrupted` has measured."""
    stored = stored_scores(bundle, "val", altered=True)
    if stored is not None and bundle.manifest.stage == "exported":
        return stored[0]
    if why_unproved(bundle) is not None or bundle.validation is None or bundle.altered is None:
        return None
    rows = bundle.altered.rows
    found = probabilities(bundle.altered.logits, bundle.manifest.temperature)
    return ScoredImages.of(bundle.validation.labels[rows], found, originals=rows.astype(np.int64))


def why_unproved(bundle: Bundle) -> str | None:
    """Return why validation predictions prove nothing about this model, and a way out; None where they do."""
    manifest = bundle.manifest
    if manifest.adapted is not None:
        return (
            f"{bundle.path} is adapted to unlabelled images, so no predictions prove anything of it; give the bundle "
            "that it was made from"
        )
    if bundle.validation is None:
        return f"{bundle.path} holds no validation predictions to prove anything on; export it again"
    reason = augmented_validation(manifest.config)
    if reason and manifest.calibration is None:
        return f"{bundle.path} has no images to prove anything on: {reason}"
    if manifest.stage in ("ensemble", "soup") and bundle.crossed is None:
        return (
            f"{bundle.path} holds no predictions of members that were chosen without the image, which alone would "
            f"prove anything; join the trials again: "
            f"`{joining_command(manifest.study, soup=manifest.stage == 'soup')}`"
        )
    return None


def refuse_unproved(bundle: Bundle, option: str) -> NoReturn:
    """Raise BundleError with the reason why nothing can be proved about a bundle, for the `option` that needs it."""
    reason = why_unproved(bundle) or f"{bundle.path} holds no predictions to prove anything on"
    raise BundleError(
        f"{reason}; or leave {option} out, or measure the model: `{hint('evaluate', bundle.path, data='DATA')}`"
    )
