"""The measurements under corruptions that a bundle keeps.

metrics.json has a list under `corrupted`, one record for each set of images: {date, part, images, data, result} and,
where the errors were compared, {baseline}; `images` is the digest of the images and `data` the fingerprint of their
data set. Bundles of earlier versions have no such list. It may have been written by hand, so it is checked when read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from hpo.bundle.stored_metrics import CORRUPTED, WAY_OUT, validated
from hpo.corruption_family import SEVERITIES
from hpo.errors import BundleError
from hpo.evaluation.corrupted_copy import Condition
from hpo.evaluation.intervals import Score
from hpo.evaluation.robustness import RelativeErrors, Robustness


@dataclass(frozen=True)
class BaselineErrors:
    """The errors of a measurement relative to those of another model on the same images."""

    name: str
    """The bundle of the other model, without the folders of an absolute path."""
    errors: Mapping[str, RelativeErrors]
    """By family of corruptions."""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return {"name": self.name, "errors": {family: one.to_dict() for family, one in self.errors.items()}}


@dataclass(frozen=True)
class RobustnessRecord:
    """A result that a bundle keeps."""

    date: str
    part: str
    """train, val, test, or all for images without parts."""
    images: str
    """Digest of the images of the part."""
    data: str
    """Fingerprint of the data set."""
    result: Robustness
    baseline: BaselineErrors | None = None
    """None where the errors were not compared with those of another model."""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values; the key `baseline` only where there is one."""
        values = {**vars(self), "result": self.result.to_dict(), "baseline": self.baseline and self.baseline.to_dict()}
        return {key: value for key, value in values.items() if key != "baseline" or value is not None}


def stored_records(metrics: Mapping[str, Any], source: str) -> list[RobustnessRecord]:
    """Return the checked records in the content of metrics.json, read from `source`; [] in bundles from before them.

    Raise BundleError where the list holds something else.
    """
    found = validated(TypeAdapter(list[RobustnessRecord]), metrics.get(CORRUPTED) or [], source, CORRUPTED)
    if not all(_is_consistent(one.result) for one in found):
        raise BundleError(f"{source}: {CORRUPTED}: counts or shares are out of range; {WAY_OUT}")
    return found


def _is_consistent(found: Robustness) -> bool:
    """Whether counts and shares are in range, so that nothing is divided by zero or drawn outside a chart."""
    conditions = [condition for one in found.families for condition in one.conditions]
    scores = [found.clean, *(one.accuracy for one in found.families)]
    return (
        1 <= found.images <= found.of
        and all(map(_is_share, scores))
        and all(one.conditions for one in found.families)
        and all(map(_is_counted, conditions))
    )


def _is_share(score: Score) -> bool:
    return all(0 <= value <= 1 for value in (score.value, *score.interval))


def _is_counted(one: Condition) -> bool:
    return 0 <= one.correct <= one.images and one.images > 0 and one.severity in SEVERITIES


def best_record(records: Sequence[RobustnessRecord], data: str) -> RobustnessRecord | None:
    """Return the record on the data set of the fingerprint `data`: of its test part if it has one, else the latest."""
    own = sorted((one for one in records if one.data == data), key=lambda one: (one.part == "test", one.date))
    return own[-1] if own else None
