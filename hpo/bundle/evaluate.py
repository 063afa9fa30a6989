"""Evaluate a bundle on labelled images: a part of its own data, a given part of other data, or all of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hpo.bundle.access_ledger import AccessCounts, AccessLedger
from hpo.bundle.bundle import Bundle
from hpo.bundle.measurement import ModelMeasurement, measure
from hpo.bundle.model import BATCH_SIZE, Model, Tta
from hpo.bundle.own_data import reopen_same
from hpo.bundle.proofs import SetOptions
from hpo.bundle.set_coverage import SetMeasurement, keep_test, measure_sets
from hpo.bundle.stored_metrics import new_opening
from hpo.data import (
    DataSummary,
    ImageDigests,
    Part,
    PartName,
    Progress,
    Unreadable,
    WholeData,
    digest_of_part,
    open_whole,
    summarise,
    summarise_part,
)
from hpo.data.changes import DataChanges
from hpo.data.records import PARTS
from hpo.errors import DataError
from hpo.evaluation.metrics import Report


@dataclass(frozen=True)
class Overlap:
    """Counts of images that took part in making a model: in its training, or in the choice of epoch and trial."""

    images: int
    """Images that were looked up."""
    took_part: int | None
    """Images among them that took part; None where the bundle, of an earlier version of hpo, has no digests."""
    left_out: int
    """Images that are not measured because they took part."""
    tests: int = 0
    """Measured images that are in the test part of the bundle's own data."""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return asdict(self)


@dataclass(frozen=True)
class Selection:
    """The images of an evaluation."""

    part: Part
    name: PartName | None
    """None for all images of a data set without parts."""
    fingerprint: str
    """Fingerprint of the data set."""
    own: bool
    """Whether it is the data set that the bundle was trained on."""
    summary: DataSummary
    """Classes with counts of these images; what was left out, skipped or noticed in the whole data set."""
    overlap: Overlap
    tests: tuple[str, ...] = ()
    """Digests of the test parts that are opened: that of other data, and the model's own, may be two."""
    split_is_known: bool = True
    """Whether the bundle could tell that its own data are split as they were."""

    @property
    def unreadable(self) -> tuple[Unreadable, ...]:
        """Images of the whole data set that were skipped."""
        return self.summary.unreadable


@dataclass(frozen=True)
class Evaluation:
    """A measurement and its images."""

    measurement: ModelMeasurement
    selection: Selection
    accesses: AccessCounts | None
    """Counts of the accesses to this test part so far, this one included; None for other parts.

    Of two test parts, those of the one that more models were measured on."""
    sets: SetMeasurement | None = None
    """The measurement of prediction sets; None on images that chose the model, and where `without_sets` says why."""
    without_sets: str = ""

    @property
    def report(self) -> Report:
        """The report on the unchanged images, without test-time augmentation."""
        return self.measurement.report

    @property
    def openings(self) -> int | None:
        """Number of times that this test part has been opened so far, with any model."""
        return self.accesses.count if self.accesses else None

    def to_dict(self) -> dict[str, Any]:
        """Return the dictionary of the measurement, with the description of its images."""
        return {
            **self.measurement.to_dict(),
            "split": self.selection.name or "all",
            "own_data": self.selection.own,
            "unreadable": len(self.selection.unreadable),
            "data": self.selection.summary.to_json(),
            "overlap": self.selection.overlap.to_dict(),
            "test_openings": self.openings,
            "test_models": self.accesses.models if self.accesses else None,
            "sets": self.sets.to_dict() if self.sets else None,
            "without_sets": self.without_sets,
        }


def evaluate(
    model: Model,
    data: Path,
    *,
    cache: Path,
    split: PartName | None = None,
    tta: Tta = "none",
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
) -> Evaluation:
    """Evaluate a loaded bundle on the images that `select` chooses, as `evaluate_on` does.

    With `tta` the mean over its views is measured too. Images are packed into `cache` first; `progress` is called
    during the packing and then during the evaluation. DataError as in `select`.
    """
    model.check_tta(tta)
    selection = select(model.bundle, data, cache=cache, split=split, progress=progress)
    return evaluate_on(model, selection, tta=tta, batch_size=batch_size, progress=progress)


def evaluate_on(
    model: Model,
    selection: Selection,
    *,
    tta: Tta = "none",
    batch_size: int = BATCH_SIZE,
    ledger: AccessLedger | None = None,
    set_options: SetOptions | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Evaluate as `evaluate` does, on selected images; a test access is recorded in `ledger` before it happens.

    Without one it is recorded in the bundle and in HOME: see `AccessLedger.of_user`. An access to two test parts is
    recorded under each of them. Predictions for the bundle's own test part are kept in the bundle, for later proofs.
    """
    model.check_tta(tta)
    bundle, n, ledger = model.bundle, len(selection.part), ledger or AccessLedger.of_user()
    openings = [
        new_opening("evaluate", selection.fingerprint, n, test=test, model=bundle.model_digest)
        for test in selection.tests
    ]
    accesses = [ledger.begin(bundle.path, opening) for opening in openings]
    found = measure(model, selection.part, tta=tta, batch_size=batch_size, progress=progress)
    for opening in openings:
        ledger.end(bundle.path, opening, found.report.accuracy)
    counts = max(accesses, key=lambda one: (one.models, one.count), default=None)
    if selection.own and selection.name != "test":
        return Evaluation(found, selection, counts, without_sets="the images took part in making the model")
    sets, without = measure_sets(bundle, found.predicted, set_options or SetOptions())
    if selection.own:
        keep_test(bundle, selection.tests[0], found.predicted, sets)
    return Evaluation(found, selection, counts, sets, without)


def select(
    bundle: Bundle,
    data: Path,
    *,
    cache: Path,
    split: PartName | None,
    renamed: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> Selection:
    """Select the images of `data` that a bundle is evaluated on.

    The bundle's own data: the same split is made again and `split` names its part, test by default. Other data with
    given parts: the same, of those. Other data without parts: all of it, whatever `split` says. Images that took part
    in making the model are left out, unless a part of its own data that did so is named. `renamed` is as in
    `open_whole`. Raises DataError for unusable data, a part that is not there, a class that the bundle does not know,
    where nothing is left, and for a `split` of data without parts that hold images which took part: no split of theirs
    is the one that made the model.
    """
    manifest = bundle.manifest
    open_images = partial(
        open_whole, data, image_size=manifest.preprocessing.image_size, cache=cache, classes=manifest.classes,
        renamed=renamed, white_level=manifest.data.white,
    )  # fmt: skip
    limit = manifest.data.max_unreadable
    # Unreadable images that the model's study left out do not count.
    whole = open_images(max_unreadable=1.0 if manifest.data.changes else limit, progress=progress)
    if manifest.data.is_base_of(whole):
        _refuse_renaming(renamed, data)
        return _select_own(bundle, whole, data, cache, split or "test")
    if manifest.data.changes:
        whole = open_images(max_unreadable=limit)
    name = (split or "test") if whole.given_parts else None
    part = whole.part if name is None else open_images(part=name, max_unreadable=limit).part
    rest, overlap = without_known(part, bundle.known, data)
    _refuse_unknown_split(split if name is None else None, overlap, data)
    summary = summarise_part(whole, rest, name or "all")
    return Selection(
        rest, name, whole.fingerprint, own=False, overlap=overlap, tests=_opened_tests(bundle, rest, overlap, name),
        summary=replace(summary, notes=(*summary.notes, *_unapplied(manifest.data.changes, rest))),
    )  # fmt: skip


def _refuse_renaming(renamed: Mapping[str, str] | None, data: Path) -> None:
    if renamed:
        raise DataError(
            f"{data} is the data that the model was made with, so --map has nothing to rename: leave it out"
        )


def _refuse_unknown_split(split: PartName | None, overlap: Overlap, data: Path) -> None:
    """Raise DataError where a `split` is asked of data without parts that hold images which took part."""
    if split is not None and overlap.took_part:
        raise DataError(
            f"{overlap.took_part:,} of {overlap.images:,} images of {data} took part in making this model, and {data} "
            f"has neither parts nor the very images of the model's data, so it has no {split} part; leave --split out "
            "to measure the other images, or give the data that the model was made with"
        )


def _unapplied(changes: DataChanges, part: Part) -> list[str]:
    """Return a line on the decisions on single images of the model's data, which other data do not follow."""
    if not changes:
        return []
    decided = {*changes.drops, *changes.relabels}
    named = sum(name in decided for name in part.names)
    alike = "; 1 image here has" if named == 1 else f"; {named:,} images here have"
    return [f"{changes.unapplied_line()}{f'{alike} the name of one that it concerns' if named else ''}"]


def _opened_tests(bundle: Bundle, rest: Part, overlap: Overlap, name: PartName | None) -> tuple[str, ...]:
    """Return the digests of the test parts that images of other data are in: its own, and the bundle's."""
    own = [bundle.known.test_digest] if bundle.known and overlap.tests else []
    given = [digest_of_part(rest)] if name == "test" else []
    return tuple(dict.fromkeys([*given, *own]))


def _select_own(bundle: Bundle, whole: WholeData, data: Path, cache: Path, name: PartName) -> Selection:
    """Select a part of the data that the bundle was made with."""
    way_out = "give the data that it was made with"
    dataset = reopen_same(bundle.manifest, data, cache, maker="the model", way_out=way_out)
    part: Part = dataset.open_test() if name == "test" else getattr(dataset, name)
    overlap = Overlap(len(part), len(part), 0)
    tests: tuple[str, ...] = ()
    if name == "test":
        part, overlap = without_known(part, bundle.known or ImageDigests.of(dataset), data)
        tests = (digest_of_part(part),)
    counts: dict[str, list[int]] = {name: np.bincount(part.labels, minlength=len(dataset.classes)).tolist()}
    summary = replace(summarise(dataset), counts=counts) if dataset.changes else summarise_part(whole, part, name)
    return Selection(
        part, name, dataset.fingerprint if dataset.changes else whole.fingerprint, own=True, summary=summary,
        overlap=overlap, tests=tests, split_is_known=bundle.manifest.data.split_is_known,
    )  # fmt: skip


def without_known(part: Part, known: ImageDigests | None, data: Path) -> tuple[Part, Overlap]:
    """Return the images of `part` that took no part in making a model, and the counts; DataError where none is left."""
    if known is None:
        return part, Overlap(len(part), None, 0)
    codes = known.codes(part)
    took_part = known.took_part(part)
    count = int(np.count_nonzero(took_part))
    if count == len(part):
        raise DataError(
            f"all {count:,} images of {data} that would be measured took part in making this model, as training or "
            "validation images; give images that it has not seen"
        )
    rest = part.subset(np.flatnonzero(~took_part)) if count else part
    return rest, Overlap(len(part), count, count, int(np.count_nonzero(codes == PARTS.index("test"))))
