"""Measure a model under corruptions, seen and unseen, and keep the result with its bundle."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from hpo.bundle.corrupted_records import BaselineErrors, RobustnessRecord, stored_records
from hpo.bundle.json_files import json_text, read_json
from hpo.bundle.model import BATCH_SIZE, Model
from hpo.bundle.model_card import refresh_card
from hpo.bundle.stored_metrics import CORRUPTED, METRICS
from hpo.corruption_family import CorruptionFamily
from hpo.corruptions import SEEN
from hpo.data import Part, Progress
from hpo.data.digests import digest_of_part
from hpo.evaluation.corrupted_copy import CorruptedCopy, corrupted_copy
from hpo.evaluation.intervals import Score
from hpo.evaluation.metrics import Logits
from hpo.evaluation.robustness import FamilyScore, Robustness, packed_bits, sample_of
from hpo.files import exclusive_lock, write_file
from hpo.unseen_corruptions import UNSEEN

FAMILIES = (SEEN, UNSEEN)


OnCopy = Callable[[CorruptionFamily, CorruptedCopy, Logits], None]
"""Takes a corrupted copy and what a model predicts for it, (m, C)."""


def _ignored(family: CorruptionFamily, copy: CorruptedCopy, logits: Logits) -> None:
    """Do nothing with a copy."""


def measure_corrupted(
    model: Model,
    part: Part,
    cache: Path,
    *,
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
    on_copy: OnCopy = _ignored,
) -> Robustness:
    """Measure `model` on the images of `part`, or a sample, as they are and under both families of corruptions.

    The corrupted copies are kept below `cache`. `progress` counts the images while they are corrupted, and while they
    are classified. `on_copy` gets the predictions for each copy.
    """
    sample = sample_of(part)
    clean = model.logits_of(sample.batches(batch_size, progress)).argmax(axis=1) == sample.labels
    return Robustness(
        images=len(sample),
        of=len(part),
        clean=Score.of(float(clean.mean()), len(sample)),
        families=tuple(
            measure_family(model, sample, cache, family, batch_size, progress, on_copy) for family in FAMILIES
        ),
        right=packed_bits(clean),
    )


def measure_family(
    model: Model,
    part: Part,
    cache: Path,
    family: CorruptionFamily,
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
    on_copy: OnCopy = _ignored,
) -> FamilyScore:
    """Measure `model` on all images of `part` under one family of corruptions."""
    copy = corrupted_copy(part, cache, family=family, progress=progress)
    logits = model.logits_of(copy.batches(batch_size, progress))
    on_copy(family, copy, logits)
    return FamilyScore.of(family, copy, logits.argmax(axis=1) == copy.labels)


def new_record(
    result: Robustness, part: Part, name: str, data: str, baseline: BaselineErrors | None = None
) -> RobustnessRecord:
    """Return the record of a result on `part`, called `name`, of the data set with the fingerprint `data`."""
    date = datetime.now(UTC).isoformat(timespec="seconds")
    return RobustnessRecord(date, name, digest_of_part(part), data, result, baseline)


def keep_record(bundle: Path, record: RobustnessRecord) -> None:
    """Write the record into the bundle's metrics.json, in place of one of the same images, and its model card anew.

    OSError as for any file.
    """
    with exclusive_lock(bundle):
        metrics = read_json(bundle / METRICS)
        others = [one for one in stored_records(metrics, str(bundle / METRICS)) if one.images != record.images]
        write_file(bundle / METRICS, json_text({**metrics, CORRUPTED: [one.to_dict() for one in (*others, record)]}))
    refresh_card(bundle)
