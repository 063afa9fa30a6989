"""metrics.json of a bundle: what was measured, and the records of access to test parts.

    {"validation": report or null, "test": report or null, "test_openings": [opening, …], …}

An opening, the record of one test access, is {date, command, data, test, model, n, accuracy}: `data` is the fingerprint
of the data set, `test` the digest of the test part, `model` the digest of the weights; `accuracy` is null until the
measurement has ended. The file grows, so no digest of it is kept, and it may have been written by hand: it is checked.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from hpo.bundle.json_files import json_text, parse_json, read_json
from hpo.errors import BundleError
from hpo.evaluation.calibration import Reliability
from hpo.evaluation.metrics import Report
from hpo.files import exclusive_lock, write_file

METRICS = "metrics.json"

CORRUPTED = "corrupted"
"""Key of the measurements under corruptions, which `hpo.bundle.corrupted_measurement` reads and writes."""

SCORED = "scored"
"""Key of predictions that prove thresholds and sets, which `hpo.bundle.stored_scores` reads and writes."""

SETS = "sets"
"""Key of what prediction sets held, which `hpo.bundle.set_coverage` reads and writes."""

WAY_OUT = "copy or export the bundle again"

T = TypeVar("T")

Opening = Mapping[str, Any]

_LISTENERS: ContextVar[tuple[tuple[Path, Callable[[], None]], ...]] = ContextVar("listeners", default=())


class _StoredValues(BaseModel):
    model_config = ConfigDict(extra="allow", allow_inf_nan=False)


class _StoredScores(_StoredValues):
    """The part of an evaluation that every version of hpo stores."""

    accuracy: float = Field(ge=0, le=1)
    interval: tuple[float, float]
    n: int = Field(ge=1)


class _StoredOpening(_StoredValues):
    """The record of one test access, as far as every version of hpo writes it."""

    date: str
    command: str
    data: str
    n: int = Field(ge=0)
    accuracy: float | None


class _StoredMeasurement(_StoredValues):
    """A record of a set of images in a list, as far as two such lists need it to be merged."""

    date: str
    images: str


class _StoredMetrics(_StoredValues):
    validation: _StoredScores | None = None
    test: dict[str, Any] | None = None
    test_openings: list[_StoredOpening] = []
    corrupted: list[_StoredMeasurement] = []
    scored: list[_StoredMeasurement] = []
    sets: list[_StoredMeasurement] = []


class StoredCalibration(_StoredValues):
    """A measurement of what a temperature does to the probabilities."""

    temperature: float | None = Field(gt=0)
    """None where the model is not calibrated."""
    before: Reliability
    after: Reliability


def check_metrics(values: Mapping[str, Any], source: str) -> None:
    """Raise BundleError, naming `source`, key and rule, unless scores and records of test access are well-formed."""
    validated(TypeAdapter(_StoredMetrics), values, source)


def report_of(stored: Mapping[str, Any], source: str) -> Report | None:
    """Return the whole report that is `stored`, or None where only its accuracy was kept.

    Raises BundleError where the stored values are not a report.
    """
    if "classes" not in stored:
        return None
    found = validated(TypeAdapter(Report), stored, source)
    if not _is_consistent(found):
        raise BundleError(f"{source}: classes, labels and confusion do not belong together; {WAY_OUT}")
    return found


def calibration_in(stored: Any, source: str) -> StoredCalibration:
    """Return the calibration that was measured on a test part; BundleError where `stored` is something else."""
    return validated(TypeAdapter(StoredCalibration), stored, source)


def _is_consistent(found: Report) -> bool:
    """Whether the parts of a report are of the same classes, with counts and shares in range."""
    count = len(found.labels)
    names_fit = (
        tuple(found.classes) == found.labels
        and [len(row) for row in found.confusion] == [count] * count
        and all({pair.true, pair.predicted} <= set(found.labels) for pair in found.worst_pairs)
    )
    return names_fit and min(_counts_of(found), default=0) >= 0 and all(0 <= share <= 1 for share in _shares_of(found))


def _counts_of(found: Report) -> list[int]:
    return [one.support for one in found.classes.values()] + [cell for row in found.confusion for cell in row]


def _shares_of(found: Report) -> list[float]:
    return [share for one in found.classes.values() for share in (one.precision, one.recall, one.f1)]


def validated(adapter: TypeAdapter[T], values: Any, source: str, *within: str) -> T:
    """Return the checked values; BundleError, naming `source` and the key, which lies `within` these, for others."""
    try:
        return adapter.validate_python(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, (*within, *first["loc"])))
        raise BundleError(f"{source}: {key}: {first['msg']}; {WAY_OUT}") from None


def new_opening(command: str, fingerprint: str, n: int, *, test: str = "", model: str = "") -> dict[str, Any]:
    """Return the record of an access to a test part of `n` images by `command` now, whose result is not known yet.

    `fingerprint` is that of the data, `test` the digest of the test part, `model` that of the weights.
    """
    date = datetime.now(UTC).isoformat(timespec="microseconds")
    return {
        "date": date, "command": command, "data": fingerprint, "test": test, "model": model, "n": n, "accuracy": None
    }  # fmt: skip


def openings_of(bundle: Path) -> list[dict[str, Any]]:
    """Return the records of every test access that the bundle at `bundle` holds."""
    return list(read_json(bundle / METRICS).get("test_openings", []))


def record_opening(bundle: Path, opening: Opening) -> int:
    """Append `opening` to the bundle's metrics.json; return how often the test part of these data has been opened.

    Where the folder is a copy, the listeners of `on_test_access` have written the record at its origin on return.
    """
    # Recorded before the access, so that one that fails half-way is still counted.
    with exclusive_lock(bundle):
        metrics = read_json(bundle / METRICS)
        openings = [*metrics.get("test_openings", []), dict(opening)]
        write_file(bundle / METRICS, json_text({**metrics, "test_openings": openings}))
    for folder, listener in _LISTENERS.get():
        if folder == bundle:
            listener()
    return sum(one.get("data") == opening["data"] for one in openings_of(bundle))


def add_openings(bundle: Path, openings: Sequence[Opening]) -> None:
    """Add those records that the bundle at `bundle` does not hold yet."""
    with exclusive_lock(bundle):
        metrics = read_json(bundle / METRICS)
        before = list(metrics.get("test_openings", []))
        merged = merged_openings(before, openings)
        if len(merged) > len(before):
            write_file(bundle / METRICS, json_text({**metrics, "test_openings": merged}))


def record_result(bundle: Path, opening: Opening, accuracy: float, **metrics: Any) -> None:
    """Write the result of a recorded test access into its record, and `metrics` beside the records."""
    with exclusive_lock(bundle):
        before = read_json(bundle / METRICS)
        openings = [{**one, "accuracy": accuracy} if one == opening else one for one in before.get("test_openings", [])]
        write_file(bundle / METRICS, json_text({**before, **metrics, "test_openings": openings}))


@contextmanager
def on_test_access(bundle: Path, listener: Callable[[], None]) -> Iterator[None]:
    """Call `listener` within the block as soon as a test access is recorded in the bundle, before it happens."""
    token = _LISTENERS.set((*_LISTENERS.get(), (bundle, listener)))
    try:
        yield
    finally:
        _LISTENERS.reset(token)


def merge_metrics(bundle: Path, other: bytes) -> None:
    """Replace the bundle's metrics by `other`, the metrics.json of a copy of it, and keep the records of both."""
    theirs = parse_json(other, bundle / METRICS)
    check_metrics(theirs, str(bundle / METRICS))
    with exclusive_lock(bundle):
        ours = read_json(bundle / METRICS)
        openings = merged_openings(theirs.get("test_openings", []), ours.get("test_openings", []))
        merged = {**ours, **theirs, "test_openings": openings}
        for key in (CORRUPTED, SCORED, SETS):
            if key in merged:
                merged[key] = _latest([*theirs.get(key, []), *ours.get(key, [])])
        write_file(bundle / METRICS, json_text(merged))


def _latest(records: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the latest record of each set of images."""
    by_date = sorted(records, key=lambda one: one["date"])
    return list({one["images"]: one for one in by_date}.values())


def with_openings_of(metrics: Mapping[str, Any], replaced: bytes) -> dict[str, Any]:
    """Return `metrics` with the records in `replaced`, the metrics.json of the bundle that they replace, too."""
    try:
        known = json.loads(replaced).get("test_openings", [])
    except (ValueError, AttributeError):  # The file is damaged; the ledger in HOME still has these records.
        known = []
    return (
        {**metrics, "test_openings": merged_openings(known, metrics.get("test_openings", []))} if known else {**metrics}
    )


def merged_openings(*lists: Sequence[Opening]) -> list[dict[str, Any]]:
    """Return every record of the lists once, by date; one that is in several lists with the result, if one has it."""
    found: dict[tuple[Any, ...], Opening] = {}
    for one in (opening for openings in lists for opening in openings):
        key = tuple(one.get(name) for name in ("date", "command", "data", "model", "test"))
        if key not in found or one.get("accuracy") is not None:
            found[key] = one
    return [dict(one) for one in sorted(found.values(), key=lambda one: str(one.get("date")))]
