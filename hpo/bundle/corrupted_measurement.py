"""Measure a model under corruptions, seen and unseen, and keep the result with its bundle.

metrics.json keeps a list under `corrupted`, one record for each set of images: {date, part, images, data, result},
where `images` is the digest of the images and `data` the fingerprint of their data set. Bundles of earlier versions
have no such list. It may have been written by hand, so it is checked when read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from hpo.bundle.json_files import json_text, read_json
from hpo.bundle.model import BATCH_SIZE, Model
from hpo.bundle.stored_metrics import CORRUPTED, METRICS, WAY_OUT
from hpo.corruption_family import SEVERITIES, CorruptionFamily
from hpo.corruptions import SEEN
from hpo.data import Part, Progress
from hpo.data.digests import digest_of_part
from hpo.errors import BundleError
from hpo.evaluation.corrupted_copy import Condition, corrupted_copy
from hpo.evaluation.intervals import Score
from hpo.evaluation.robustness import FamilyScore, Robustness, sample_of
from hpo.files import exclusive_lock, write_file
from hpo.unseen_corruptions import UNSEEN

FAMILIES = (SEEN, UNSEEN)


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

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return {**vars(self), "result": self.result.to_dict()}


def measure_corrupted(
    model: Model, part: Part, cache: Path, *, batch_size: int = BATCH_SIZE, progress: Progress | None = None
) -> Robustness:
    """Measure `model` on the images of `part`, or a sample, as they are and under both families of corruptions.

    The corrupted copies are kept below `cache`. `progress` counts the images while they are corrupted, and while they
    are classified.
    """
    sample = sample_of(part)
    clean = model.logits_of(sample.batches(batch_size, progress)).argmax(axis=1) == sample.labels
    return Robustness(
        images=len(sample),
        of=len(part),
        clean=Score.of(float(clean.mean()), len(sample)),
        families=tuple(measure_family(model, sample, cache, family, batch_size, progress) for family in FAMILIES),
    )


def measure_family(
    model: Model,
    part: Part,
    cache: Path,
    family: CorruptionFamily,
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
) -> FamilyScore:
    """Measure `model` on all images of `part` under one family of corruptions."""
    copy = corrupted_copy(part, cache, family=family, progress=progress)
    logits = model.logits_of(copy.batches(batch_size, progress))
    return FamilyScore.of(family, copy, logits.argmax(axis=1) == copy.labels)


def new_record(result: Robustness, part: Part, name: str, data: str) -> RobustnessRecord:
    """Return the record of a result on `part`, called `name`, of the data set with the fingerprint `data`."""
    return RobustnessRecord(datetime.now(UTC).isoformat(timespec="seconds"), name, digest_of_part(part), data, result)


def keep_record(bundle: Path, record: RobustnessRecord) -> None:
    """Write the record into the bundle's metrics.json, in place of one of the same images; OSError as for any file."""
    with exclusive_lock(bundle):
        metrics = read_json(bundle / METRICS)
        others = [one for one in stored_records(metrics, str(bundle / METRICS)) if one.images != record.images]
        write_file(bundle / METRICS, json_text({**metrics, CORRUPTED: [one.to_dict() for one in (*others, record)]}))


def stored_records(metrics: Mapping[str, Any], source: str) -> list[RobustnessRecord]:
    """Return the checked records in the content of metrics.json, read from `source`; [] in bundles from before them.

    Raise BundleError where the list holds something else.
    """
    try:
        found = TypeAdapter(list[RobustnessRecord]).validate_python(metrics.get(CORRUPTED) or [])
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, (CORRUPTED, *first["loc"])))
        raise BundleError(f"{source}: {key}: {first['msg']}; {WAY_OUT}") from None
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
