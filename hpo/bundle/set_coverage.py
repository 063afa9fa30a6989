"""Measure prediction sets on labelled images: their coverage and mean size, clean and under corruptions.

metrics.json keeps a list under `sets`, one record for each set of images: {date, part, images, data, model, rule,
found}, where `rule` says what the sets were calibrated on and `found` is a list of `SetCoverage`. The images calibrated
nothing of the rule. The list may have been written by hand, so it is checked when read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import TypeAdapter

from hpo.bundle.bundle import Bundle
from hpo.bundle.json_files import json_text, read_json
from hpo.bundle.measurement import PredictedImages
from hpo.bundle.proofs import BundleSets, SetOptions, sets_of
from hpo.bundle.stored_metrics import METRICS, SETS, WAY_OUT, validated
from hpo.bundle.stored_scores import keep_scores, scores_record
from hpo.corruption_family import SEVERITIES, CorruptionFamily
from hpo.data.dataset import Labels
from hpo.errors import BundleError, UsageError
from hpo.evaluation.calibration import Probabilities, probabilities
from hpo.evaluation.conformal import ScoredImages, SetRule
from hpo.evaluation.corrupted_copy import CorruptedCopy
from hpo.evaluation.intervals import clustered
from hpo.evaluation.metrics import Logits
from hpo.files import exclusive_lock, write_file

Kind = Literal["clean", "seen", "unseen"]
"""Images as they are, or under a family of corruptions."""


@dataclass(frozen=True)
class SetCoverage:
    """The coverage and size of the sets of some images."""

    kind: Kind
    severity: int | None
    """From 1 to 5; None for clean images, and for all severities together."""
    images: int
    """Rows: images, each once for each kind of corruption."""
    coverage: float
    """Share of the images whose set holds the true class."""
    interval: tuple[float, float]
    """95 % interval of the coverage, which allows for several rows that show one image."""
    size: float
    """Mean number of classes in a set."""


def coverage_of(
    rule: SetRule, labels: Labels, rows: Probabilities, kind: Kind = "clean", severity: int | None = None,
    originals: Labels | None = None,
) -> SetCoverage:  # fmt: skip
    """Return the coverage and the size of the sets of images with `labels` (n,) and the probabilities `rows` (n, C)."""
    members = rule.members(rows)
    score = clustered(
        members[np.arange(len(labels)), labels], np.arange(len(labels)) if originals is None else originals
    )
    return SetCoverage(kind, severity, len(labels), score.value, score.interval, float(members.sum(axis=1).mean()))


@dataclass
class SetMeasurement:
    """Counts what the sets of one rule hold on images as they are predicted."""

    sets: BundleSets
    found: list[SetCoverage] = field(default_factory=list)

    def add_clean(self, labels: Labels, rows: Probabilities) -> None:
        """Count the images as they are."""
        self.found.append(coverage_of(self.sets.rule, labels, rows))

    def add_copy(self, family: CorruptionFamily, copy: CorruptedCopy, rows: Probabilities) -> None:
        """Count a corrupted copy with the calibrated probabilities `rows` (m, C): all of it, and each severity."""
        originals = copy.originals
        self.found.append(coverage_of(self.sets.rule, copy.labels, rows, family.name, None, originals))
        for step in SEVERITIES:
            some = copy.severity == step
            if some.any():
                found = coverage_of(self.sets.rule, copy.labels[some], rows[some], family.name, step, originals[some])
                self.found.append(found)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return {**self.sets.to_dict(), "found": [asdict(one) for one in self.found]}


@dataclass
class CopyScores:
    """Takes predictions under corruptions: measures sets there, and keeps scores that can calibrate others."""

    bundle: Bundle
    sets: SetMeasurement | None
    seen: ScoredImages | None = None
    """Under the corruptions that a search may see."""

    def add(self, family: CorruptionFamily, copy: CorruptedCopy, logits: Logits) -> None:
        """Take a corrupted copy whose predictions are `logits` (m, C)."""
        rows = probabilities(logits, self.bundle.manifest.temperature)
        if self.sets is not None:
            self.sets.add_copy(family, copy, rows)
        if family.name == "seen":
            self.seen = ScoredImages.of(copy.labels, rows, originals=copy.originals, severity=copy.severity)

    def keep(self, part: str, images: str) -> None:
        """Keep both in the bundle, whose own `part` with the digest `images` these are."""
        data, model = self.bundle.manifest.data.fingerprint, self.bundle.model_digest
        keep_scores(self.bundle.path, scores_record(part, images, data, model, clean=None, altered=self.seen))
        if self.sets is not None:
            keep_sets(self.bundle.path, set_record(self.sets, part, images, data, model))


def measure_sets(bundle: Bundle, predicted: PredictedImages, options: SetOptions) -> tuple[SetMeasurement | None, str]:
    """Measure the sets of a bundle on images that calibrate nothing of them, of the test part or of other data.

    None with the reason where the bundle can make no such sets.
    """
    try:
        found = SetMeasurement(sets_of(bundle, options, test=False))
    except (BundleError, UsageError) as error:
        return None, str(error)
    found.add_clean(*predicted)
    return found, ""


def keep_test(bundle: Bundle, images: str, predicted: PredictedImages, sets: SetMeasurement | None) -> None:
    """Keep in the bundle what was predicted for its own test part, whose digest is `images`, and what the sets held."""
    data, model = bundle.manifest.data.fingerprint, bundle.model_digest
    scores = ScoredImages.of(*predicted)
    keep_scores(bundle.path, scores_record("test", images, data, model, clean=scores, altered=None))
    if sets is not None:
        keep_sets(bundle.path, set_record(sets, "test", images, data, model))


@dataclass(frozen=True)
class SetRecord:
    """A record of metrics.json."""

    date: str
    part: str
    """test, or all for images without parts."""
    images: str
    data: str
    model: str
    rule: dict[str, Any]
    """`BundleSets.to_dict`."""
    found: tuple[SetCoverage, ...]


def set_record(measured: SetMeasurement, part: str, images: str, data: str, model: str) -> SetRecord:
    """Return the record of a measurement of the model with the digest `model`."""
    date = datetime.now(UTC).isoformat(timespec="seconds")
    return SetRecord(date, part, images, data, model, measured.sets.to_dict(), tuple(measured.found))


def keep_sets(bundle: Path, record: SetRecord) -> None:
    """Write the record into the bundle's metrics.json, in place of one of the same images; OSError as for any file."""
    with exclusive_lock(bundle):
        metrics = read_json(bundle / METRICS)
        others = [one for one in set_records(metrics, str(bundle / METRICS)) if one.images != record.images]
        write_file(bundle / METRICS, json_text({**metrics, SETS: [asdict(one) for one in (*others, record)]}))


def set_records(metrics: Mapping[str, Any], source: str) -> list[SetRecord]:
    """Return the checked records in the content of metrics.json; BundleError where the list holds something else."""
    found = validated(TypeAdapter(list[SetRecord]), metrics.get(SETS) or [], source, SETS)
    if not all(_is_consistent(one) for record in found for one in record.found):
        raise BundleError(f"{source}: {SETS}: counts or shares are out of range; {WAY_OUT}")
    return found


def _is_consistent(one: SetCoverage) -> bool:
    shares = (one.coverage, *one.interval)
    return one.images > 0 and one.size >= 0 and all(0 <= share <= 1 for share in shares)


def latest_sets(bundle: Bundle) -> SetRecord | None:
    """Return what sets of this very model held on its own data: on the test part, the latest measurement."""
    own = (bundle.manifest.data.fingerprint, bundle.model_digest)
    records = set_records(bundle.metrics, str(bundle.path / METRICS))
    found = [one for one in records if (one.data, one.model) == own]
    return max(found, key=lambda one: one.date, default=None)
