"""The section of a model card on corruptions: accuracy under each family, and by kind and severity."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from hpo.bundle.corrupted_records import RobustnessRecord, best_record, stored_records
from hpo.bundle.manifest import Manifest
from hpo.bundle.stored_metrics import METRICS
from hpo.corruption_family import SEVERITIES, FamilyName
from hpo.errors import BundleError
from hpo.evaluation.corrupted_copy import Condition
from hpo.evaluation.robustness import RelativeErrors
from hpo.hints import hint
from hpo.markdown import NOTHING, literal, to_markdown

BUNDLE, DATA = "BUNDLE", "DATA"
"""Names of this folder and of the images in the commands."""

WORDS: Mapping[FamilyName, str] = {
    "seen": "corruptions that a search may see",
    "unseen": "corruptions that no search sees",
}


def corruption_parts(manifest: Manifest, metrics: Mapping[str, Any]) -> Iterator[str]:
    """Yield what was measured under corruptions: of the model's own data, and of others."""
    try:
        records = stored_records(metrics, METRICS)
    except BundleError as error:
        yield f"What metrics.json has of them cannot be read: {literal(str(error))}."
        return
    own = best_record(records, manifest.data.fingerprint)
    if own is None:
        command = hint("evaluate", BUNDLE, data=DATA, corrupted=True)
        yield f"Not measured. `{command}` measures the test part, and keeps the result here."
    for record in [*([own] if own else []), *(one for one in records if one is not own)]:
        yield from _measured(manifest, record, whole=record is own)


def kept_records(metrics: Mapping[str, Any]) -> list[RobustnessRecord]:
    """Return the measurements under corruptions; none where metrics.json was spoilt by hand."""
    with suppress(BundleError):
        return stored_records(metrics, METRICS)
    return []


def _measured(manifest: Manifest, record: RobustnessRecord, *, whole: bool) -> Iterator[str]:
    """Yield one measurement; with the table by kind and severity where it is `whole`."""
    result, errors = record.result, _errors(record)
    data = "" if record.data == manifest.data.fingerprint else f" of other data ({record.data[:12]})"
    drawn = f" of {result.of:,}, drawn at random" if result.images < result.of else ""
    part = "All images" if record.part == "all" else f"The {record.part} part"
    rows = [["as they are", accuracy_cell(result.clean.value, result.clean.interval), NOTHING]]
    rows += [
        [WORDS[one.family], accuracy_cell(one.accuracy.value, one.accuracy.interval), _mean_ratio(errors[one.family])]
        for one in result.families
    ]
    yield f"{part}{data}, {record.date[:10]}: {result.images:,} images{drawn}, each once under each kind."
    yield to_markdown(("images", "accuracy, %", _errors_heading(record)), rows)
    if whole:
        yield to_markdown(("accuracy by severity, %", *map(str, SEVERITIES), "mean", "errors"), _kinds(record, errors))


def _errors_heading(record: RobustnessRecord) -> str:
    if record.baseline is None:
        return "errors over those on the images as they are"
    return f"mCE, over the errors of {literal(record.baseline.name)}"


def _errors(record: RobustnessRecord) -> Mapping[str, RelativeErrors]:
    """Return the errors by family relative to the baseline's, or else to the model's own on the images."""
    known = record.baseline.errors if record.baseline else {}
    if all(one.family in known for one in record.result.families):
        return known
    return {**record.result.relative_errors(), **known}


def _kinds(record: RobustnessRecord, errors: Mapping[str, RelativeErrors]) -> Iterator[list[str]]:
    for family in record.result.families:
        ratios = errors[family.family].kinds
        for kind, conditions in family.by_kind.items():
            yield [f"{kind} ({family.family})", *_severities(conditions), _ratio(ratios.get(kind))]


def _severities(conditions: Sequence[Condition]) -> list[str]:
    by_step = {one.severity: f"{100 * one.accuracy:.0f}" for one in conditions}
    mean = sum(one.accuracy for one in conditions) / len(conditions)
    return [*(by_step.get(step, NOTHING) for step in SEVERITIES), f"{100 * mean:.0f}"]


def accuracy_cell(value: float, interval: Sequence[float] | None) -> str:
    """Return a share in per cent with its 95 % interval, where there is one."""
    return f"{100 * value:.2f}" + (f" ({100 * interval[0]:.1f}–{100 * interval[1]:.1f})" if interval else "")


def _ratio(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.2f}"


def _mean_ratio(found: RelativeErrors) -> str:
    """Return the mean over the kinds with its interval, where there is one."""
    return _ratio(found.mean) + (f" ({found.interval[0]:.2f}–{found.interval[1]:.2f})" if found.interval else "")
