"""metrics.json of a bundle, checked: it has no digest, since it grows, and may have been written by hand.

`check_metrics` looks at what every reader of a bundle relies on; `report_of` and `scaled_of` at a whole report and
at a measured calibration, for those that show them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from hpo.errors import BundleError
from hpo.evaluation.calibration import Reliability
from hpo.evaluation.metrics import Report

T = TypeVar("T")

WAY_OUT = "copy or export the bundle again"


class _Stored(BaseModel):
    model_config = ConfigDict(extra="allow", allow_inf_nan=False)


class _Scores(_Stored):
    """The least that is stored of an evaluation."""

    accuracy: float = Field(ge=0, le=1)
    interval: tuple[float, float]
    n: int = Field(ge=1)


class _Opening(_Stored):
    """A look at a test part."""

    date: str
    command: str
    data: str
    n: int = Field(ge=0)
    accuracy: float | None


class _Metrics(_Stored):
    validation: _Scores | None = None
    test: dict[str, Any] | None = None
    test_openings: list[_Opening] = []


class Scaled(_Stored):
    """What a temperature does to probabilities, measured."""

    temperature: float | None = Field(gt=0)
    """None where the model is not calibrated."""
    before: Reliability
    after: Reliability


def check_metrics(values: Mapping[str, Any], source: str) -> None:
    """BundleError, naming `source`, key and rule, unless scores and looks at test parts are what they must be."""
    _checked(TypeAdapter(_Metrics), values, source)


def report_of(stored: Mapping[str, Any], source: str) -> Report | None:
    """The whole report that `stored` is; None where only its accuracy is kept; BundleError where it is no report."""
    if "classes" not in stored:
        return None
    found = _checked(TypeAdapter(Report), stored, source)
    count = len(found.labels)
    shares = [value for one in found.classes.values() for value in (one.precision, one.recall, one.f1)]
    pairs = {name for pair in found.worst_pairs for name in (pair.true, pair.predicted)}
    counts = [one.support for one in found.classes.values()] + [cell for row in found.confusion for cell in row]
    consistent = (
        tuple(found.classes) == found.labels
        and [len(row) for row in found.confusion] == [count] * count
        and pairs <= set(found.labels)
        and min(counts, default=0) >= 0
        and all(0 <= share <= 1 for share in shares)
    )
    if not consistent:
        raise BundleError(f"{source}: classes, labels and confusion do not belong together; {WAY_OUT}")
    return found


def scaled_of(stored: Any, source: str) -> Scaled:
    """The calibration that was measured on a test part; BundleError for anything else."""
    return _checked(TypeAdapter(Scaled), stored, source)


def _checked(adapter: TypeAdapter[T], values: Any, source: str) -> T:
    try:
        return adapter.validate_python(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise BundleError(f"{source}: {key}: {first['msg']}; {WAY_OUT}") from None
