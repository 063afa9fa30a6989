"""The section about prediction sets: how often they hold the true class, and how large they are.

A bundle may keep a measurement on its test part (`hpo retrain`, `hpo evaluate`); else the sets are counted on the
images that they were calibrated on.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpo.bundle.proofs import BundleSets, SetOptions, SetSource, sets_of
from hpo.bundle.set_coverage import SetCoverage, SetRecord, coverage_of, latest_sets
from hpo.errors import BundleError, UsageError
from hpo.evaluation.calibration import probabilities
from hpo.evaluation.conformal import SetRule
from hpo.report import wording
from hpo.report.model_data import ModelData
from hpo.report.page import Section

TITLE = "Prediction sets"

LEVELS = (0.95, 0.9, 0.8, 0.7)
"""Levels of the sets that are shown, the first that the calibration images can give."""

KINDS = {
    "clean": "as they are",
    "seen": "under corruptions that a search may see",
    "unseen": "under corruptions that no search sees",
}
"""The images of a row, in words."""

_ALTERED = "altered, by two corruptions each"


@dataclass(frozen=True)
class _Row:
    name: str
    found: SetCoverage


def sets_section(model: ModelData) -> Section:
    """Return the section with the coverage and the mean size of sets for 95 %, or what few images can give."""
    record = latest_sets(model.bundle)
    if record is not None:
        return Section("sets", TITLE, _of_record(record))
    try:
        sets = _sets(model)
    except (BundleError, UsageError) as error:
        # A report names no folder of the machine that made it.
        reason = str(error).replace(str(model.bundle.path), model.place or "the bundle")
        return Section("sets", TITLE, missing=f"There are none: {reason}.")
    rows = _on_calibration_images(model, sets)
    if not rows:
        return Section("sets", TITLE, missing="Nothing has measured them: hpo evaluate does.")
    values = {"level": sets.rule.level, "method": sets.rule.method, "rows": rows, "by": _by(sets), "own": True}
    return Section("sets", TITLE, values)


def _sets(model: ModelData) -> BundleSets:
    """Return the sets of the highest of LEVELS that the images can give; the error of the lowest where they cannot."""
    for level in LEVELS[:-1]:
        with suppress(UsageError):
            return sets_of(model.bundle, SetOptions(level))
    return sets_of(model.bundle, SetOptions(LEVELS[-1]))


def _of_record(record: SetRecord) -> dict[str, Any]:
    """Return the values of a measurement on images that calibrated nothing."""
    rows = [_Row(_name(one), one) for one in record.found]
    clean, altered = record.rule.get("clean"), record.rule.get("altered")
    by = [_images(one, which) for one, which in ((clean, ""), (altered, "altered ")) if isinstance(one, dict)]
    return {
        "level": float(record.rule.get("level", 0)), "method": str(record.rule.get("method", "")), "rows": rows,
        "by": " and ".join(by), "own": False, "part": record.part,
    }  # fmt: skip


def _images(source: dict[str, Any], which: str) -> str:
    count = source.get("images")
    return f"{count:,} {which}images" if isinstance(count, int) else f"{which}images"


def _name(one: SetCoverage) -> str:
    return KINDS[one.kind] if one.severity is None else f"severity {one.severity}"


def _by(sets: BundleSets) -> str:
    """Return the images that sets were calibrated on, in words."""

    def words(source: SetSource, which: str) -> str:
        return wording.counted(source.found.originals, f"{which}{source.images.source} image")

    found = [words(sets.clean, "")]
    return " and ".join([*found, words(sets.altered, "altered ")] if sets.altered else found)


def _on_calibration_images(model: ModelData, sets: BundleSets) -> Sequence[_Row]:
    """Return what the sets hold on the validation images, as they are and altered; nothing for other sources."""
    bundle, rule = model.bundle, sets.rule
    if sets.clean.images.source != "validation" or bundle.validation is None:
        return []
    temperature = bundle.manifest.temperature
    logits = bundle.validation.logits if bundle.crossed is None else bundle.crossed
    rows = [_Row(KINDS["clean"], coverage_of(rule, bundle.validation.labels, probabilities(logits, temperature)))]
    if sets.altered is None or sets.altered.images.source != "validation" or bundle.altered is None:
        return rows
    return [*rows, _Row(_ALTERED, _altered(rule, model))]


def _altered(rule: SetRule, model: ModelData) -> SetCoverage:
    bundle = model.bundle
    assert bundle.validation is not None
    assert bundle.altered is not None
    shown = bundle.altered.rows.astype(np.int64)
    rows = probabilities(bundle.altered.logits, bundle.manifest.temperature)
    return coverage_of(rule, bundle.validation.labels[shown], rows, "seen", originals=shown)
