"""The section about accuracy under corruptions: those that a search may see, and those that none sees.

A bundle may keep a measurement (`hpo evaluate --corrupted`); else the model is measured on its validation images, where
these are given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hpo.bundle.corrupted_measurement import FAMILIES, measure_corrupted
from hpo.bundle.corrupted_records import best_record, stored_records
from hpo.bundle.stored_metrics import METRICS
from hpo.corruption_family import FamilyName
from hpo.evaluation.corrupted_copy import Condition
from hpo.evaluation.robustness import FamilyScore, RelativeErrors, Robustness
from hpo.hints import hint
from hpo.report import model_figures
from hpo.report.image_sections import SEEN, TRAINED_ON
from hpo.report.model_data import ModelData, ModelWithData
from hpo.report.page import Section, Tile

TITLE = "Robustness"

WORDS: Mapping[FamilyName, tuple[str, str]] = {
    "seen": ("Corruptions that a search may see", "A search may have chosen this model by such images."),
    "unseen": ("Corruptions that no search sees", "Nothing of how the model was made or chosen knows them."),
}
"""Heading and explanation of a family."""


@dataclass(frozen=True)
class _Measured:
    """A measurement and its images."""

    result: Robustness
    part: str
    trained: bool = False
    """Whether the model has trained on the images."""


def robustness_section(model: ModelData, with_data: ModelWithData | None, how: str) -> Section:
    """Return the section with the accuracy by corruption and severity; `how` is the command that adds the images."""
    found = _kept(model) or (_measure(with_data) if with_data is not None else None)
    if found is None:
        kept = hint("evaluate", model.place, data="DATA", corrupted=True) if model.place else ""
        also = f"; or measure it once and keep it: {kept}" if kept else ""
        return Section("robustness", TITLE, missing=f"Needs the images: {how}{also}")
    result, errors = found.result, found.result.relative_errors()
    missing = [WORDS[family.name][0].lower() for family in FAMILIES if result.family(family.name) is None]
    values = {
        "note": SEEN if found.trained else "",
        "trained": found.trained,
        "clean": result.clean.value,
        "families": [_family(one, result.clean.value, errors[one.family]) for one in result.families],
        "missing": missing,
        "part": found.part,
        "n": result.images,
        "of": result.of,
    }
    return Section("robustness", TITLE + (TRAINED_ON if found.trained else ""), values)


def robustness_tiles(model: ModelData) -> list[Tile]:
    """Return the key figure of a measurement that the bundle keeps; nothing where it keeps none."""
    found = _kept(model)
    unseen = found.result.family("unseen") if found else None
    if found is None or unseen is None:
        return []
    seen = found.result.family("seen")
    beside = f", {seen.accuracy.value:.4f} under those that a search may see" if seen else ""
    detail = f"{found.part} part; {found.result.clean.value:.4f} on the images as they are{beside}"
    return [Tile("Under unseen corruptions", f"{unseen.accuracy.value:.4f}", detail)]


def _kept(model: ModelData) -> _Measured | None:
    """Return what the bundle keeps about its own data: of the test part if it was measured there, else of another."""
    records = stored_records(model.bundle.metrics, str(model.bundle.path / METRICS))
    record = best_record(records, model.manifest.data.fingerprint)
    if record is None:
        return None
    return _Measured(record.result, {"val": "validation"}.get(record.part, record.part))


def _measure(model: ModelWithData) -> _Measured:
    options = model.options
    with options.counting("images under corruptions") as progress:
        result = measure_corrupted(
            model.model, model.part, options.cache, batch_size=options.batch_size, progress=progress
        )
    return _Measured(result, "validation", model.seen)


def _family(found: FamilyScore, clean: float, ratios: RelativeErrors) -> dict[str, Any]:
    """Return the values of one family, the hardest kind first."""
    heading, explanation = WORDS[found.family]
    rows = [(kind, points, _mean(points), ratios.kinds.get(kind)) for kind, points in found.by_kind.items()]
    return {
        "heading": heading,
        "explanation": explanation,
        "svg": model_figures.robustness(found.by_kind, clean, name=f"robustness-{found.family}"),
        "accuracy": found.accuracy,
        "rows": sorted(rows, key=lambda row: row[2]),
        "ratio": ratios.mean,
        "interval": ratios.interval,
    }


def _mean(points: Sequence[Condition]) -> float:
    return sum(point.correct for point in points) / sum(point.images for point in points)
