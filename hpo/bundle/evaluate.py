"""What a model does on labelled images: its report, how far its probabilities can be believed, what views add.

Measure a bundle on labelled images: a part of its own data, a given part of other data, or all of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpo.bundle.access_ledger import AccessCounts, AccessLedger
from hpo.bundle.bundle import Bundle
from hpo.bundle.manifest import Manifest
from hpo.bundle.model import (
    BATCH_SIZE,
    VIEWS,
    Model,
    Tta,
    check_tta,
)
from hpo.bundle.stored_metrics import new_opening
from hpo.data import (
    Dataset,
    DataSummary,
    ImageDigests,
    Part,
    PartName,
    Progress,
    SplitOptions,
    Unreadable,
    WholeData,
    digest_of_part,
    open_whole,
    summarise_part,
)
from hpo.data.dataset import Images, Labels
from hpo.data.records import PARTS
from hpo.errors import DataError
from hpo.evaluation.calibration import Probabilities, Reliability, log_probabilities, probabilities, reliability
from hpo.evaluation.metrics import (
    Logits,
    Report,
    report,
)


@dataclass(frozen=True)
class Averaged:
    """The same images, each answer the mean over several views."""

    tta: Tta
    views: int
    report: Report
    reliability: Reliability
    gained: int
    """Images that are right by the views and wrong without."""
    lost: int
    """The other way round."""

    def to_dict(self, plain: Report) -> dict[str, Any]:
        """JSON-ready: the report, and its gain over the `plain` one in accuracy."""
        counts = {"views": self.views, "gained": self.gained, "lost": self.lost}
        gain = self.report.accuracy - plain.accuracy
        told = {"calibration": self.reliability.to_dict(), **self.report.to_dict()}
        return {"tta": self.tta, "gain": gain, **counts, **told}


@dataclass(frozen=True)
class Measurement:
    """A model on some images."""

    report: Report
    """Of the logits as they are; calibration leaves all of it but the loss."""
    temperature: float | None
    """The bundle's; None where it is not calibrated."""
    before: Reliability
    """At temperature 1."""
    after: Reliability
    """Of the probabilities that `predict` gives."""
    averaged: Averaged | None = None
    """With test-time augmentation, where it was asked for."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: the report's keys, `calibration` and `tta`."""
        scaled = {"temperature": self.temperature, "before": self.before.to_dict(), "after": self.after.to_dict()}
        tta = self.averaged.to_dict(self.report) if self.averaged else None
        return {**self.report.to_dict(), "calibration": scaled, "tta": tta}


def examine(
    model: Model, part: Part, *, tta: Tta = "none", batch_size: int = BATCH_SIZE, progress: Progress | None = None
) -> Measurement:
    """Measure `model` on all images of `part`, `batch_size` in memory at a time."""
    logits, means = _seen(model, part.batches(batch_size, progress), tta)
    plain = probabilities(logits, model.temperature)
    return Measurement(
        report=report(part.labels, logits, model.classes),
        temperature=model.temperature if model.bundle.manifest.calibration else None,
        before=reliability(part.labels, probabilities(logits)),
        after=reliability(part.labels, plain),
        averaged=None if tta == "none" else _averaged(part.labels, plain, means, tta, model.classes),
    )


def _seen(model: Model, batches: Iterator[Images], tta: Tta) -> tuple[Logits, Probabilities]:
    """(n, C) logits of the images as they are, and (n, C) mean probabilities over the views."""
    logits, means = [], []
    for batch in batches:
        views = model.view_logits(batch, tta)
        logits.append(views[0])
        means.append(model.calibrated(views))
    return np.concatenate(logits), np.concatenate(means)


def _averaged(
    labels: Labels, plain: Probabilities, means: Probabilities, tta: Tta, classes: tuple[str, ...]
) -> Averaged:
    before, after = (rows.argmax(axis=1) == labels for rows in (plain, means))
    return Averaged(
        tta=tta,
        views=len(VIEWS[tta]),
        report=report(labels, log_probabilities(means).astype(np.float32), classes),
        reliability=reliability(labels, means),
        gained=int((after & ~before).sum()),
        lost=int((before & ~after).sum()),
    )


@dataclass(frozen=True)
class Overlap:
    """How many of some images took part in making a model: trained it, or chose its best epoch and configuration."""

    images: int
    """Images that were looked up."""
    took_part: int | None
    """Of these; None where the bundle, of an earlier version of hpo, does not know its images."""
    left_out: int
    """Images that are not measured, because they took part."""
    tests: int = 0
    """Of the measured ones, those of the test part that the bundle's own data have."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


@dataclass(frozen=True)
class Selection:
    """The images that an evaluation is about."""

    part: Part
    name: PartName | None
    """None for all images of a data set without parts."""
    fingerprint: str
    """Of the data set."""
    own: bool
    """Whether it is the data set that the bundle was trained on."""
    summary: DataSummary
    """Classes with counts of these images; what was left out, skipped or noticed in the whole data set."""
    overlap: Overlap
    tests: tuple[str, ...] = ()
    """The digests of the test parts that are looked at: that of other data, and the model's own, may be two."""
    split_is_known: bool = True
    """Whether the bundle could tell that its own data are split as they were."""

    @property
    def unreadable(self) -> tuple[Unreadable, ...]:
        """Images of the whole data set that were skipped."""
        return self.summary.unreadable


@dataclass(frozen=True)
class Evaluation:
    """A measurement and what it is about."""

    measurement: Measurement
    selection: Selection
    accesses: AccessCounts | None
    """Counts of the accesses to this test part so far, this one included; None for other parts.

    Of two test parts those of the one that more models were measured on."""

    @property
    def report(self) -> Report:
        """Of the images as they are, without test-time augmentation."""
        return self.measurement.report

    @property
    def openings(self) -> int | None:
        """How often this test part has been opened by now, with whichever model."""
        return self.accesses.count if self.accesses else None

    def to_dict(self) -> dict[str, Any]:
        """The measurement's dictionary, and which images it is about."""
        return {
            **self.measurement.to_dict(),
            "split": self.selection.name or "all",
            "own_data": self.selection.own,
            "unreadable": len(self.selection.unreadable),
            "data": self.selection.summary.to_json(),
            "overlap": self.selection.overlap.to_dict(),
            "test_openings": self.openings,
            "test_models": self.accesses.models if self.accesses else None,
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
    """Evaluate a loaded bundle on the images that `select` chooses; the bundle alone remembers a look at a test part.

    With `tta` also by the mean over its views. Images are packed into `cache` first; `progress` hears of that and then
    of the evaluation. DataError as in `select`.
    """
    check_tta(tta, model.config.symmetry)
    selection = select(model.bundle, data, cache=cache, split=split, progress=progress)
    return evaluate_on(model, selection, tta=tta, batch_size=batch_size, progress=progress)


def evaluate_on(
    model: Model,
    selection: Selection,
    *,
    tta: Tta = "none",
    batch_size: int = BATCH_SIZE,
    ledger: AccessLedger | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """As `evaluate`, on images that were chosen before; `ledger` remembers a look at a test part before it happens.

    A look at two test parts is recorded under each of them.
    """
    check_tta(tta, model.config.symmetry)
    bundle, n, ledger = model.bundle, len(selection.part), ledger or AccessLedger()
    openings = [
        new_opening("evaluate", selection.fingerprint, n, test=test, model=bundle.model_digest)
        for test in selection.tests
    ]
    accesses = [ledger.begin(bundle.path, opening) for opening in openings]
    found = examine(model, selection.part, tta=tta, batch_size=batch_size, progress=progress)
    for opening in openings:
        ledger.end(bundle.path, opening, found.report.accuracy)
    return Evaluation(found, selection, max(accesses, key=lambda one: (one.models, one.count), default=None))


def select(
    bundle: Bundle, data: Path, *, cache: Path, split: PartName | None, progress: Progress | None = None
) -> Selection:
    """Which images of `data` a bundle is evaluated on.

    The bundle's own data: the same split is made again and `split` names its part, test by default. Other data with
    given parts: the same, of those. Other data without parts: all of it, whatever `split` says. Images that took part
    in making the model are left out, unless a part of its own data that did so is named. Raises DataError for unusable
    data, a part that is not there, a class that the bundle does not know, where nothing is left, and for a `split` of
    data without parts that hold images which took part: no split of theirs is the one that made the model.
    """
    manifest = bundle.manifest
    size, allowed = manifest.preprocessing.image_size, manifest.data.max_unreadable
    whole = open_whole(
        data, image_size=size, cache=cache, classes=manifest.classes, max_unreadable=allowed,
        white_level=manifest.data.white, progress=progress,
    )  # fmt: skip
    if manifest.data.is_of(whole):
        return _of_own(bundle, whole, data, cache, split or "test")
    name = (split or "test") if whole.given_parts else None
    part = whole.part
    if name is not None:
        part = open_whole(
            data, image_size=size, cache=cache, classes=manifest.classes, max_unreadable=allowed, part=name,
            white_level=manifest.data.white,
        ).part  # fmt: skip
    rest, overlap = without_known(part, bundle.known, data)
    if name is None and split is not None and overlap.took_part:
        raise DataError(
            f"{overlap.took_part:,} of {overlap.images:,} images of {data} took part in making this model, and {data} "
            f"has neither parts nor the very images of the model's data, so it has no {split} part; leave --split out "
            "to measure the other images, or give the data that the model was made with"
        )
    own_test = [bundle.known.test_digest] if bundle.known and overlap.tests else []
    their_test = [digest_of_part(rest)] if name == "test" else []
    summary, tests = summarise_part(whole, rest, name or "all"), tuple(dict.fromkeys([*their_test, *own_test]))
    return Selection(rest, name, whole.fingerprint, own=False, summary=summary, overlap=overlap, tests=tests)


def _of_own(bundle: Bundle, whole: WholeData, data: Path, cache: Path, name: PartName) -> Selection:
    """A part of the data that the bundle was made with."""
    way_out = "give the data that it was made with"
    dataset = reopen_same(bundle.manifest, data, cache, maker="the model", way_out=way_out)
    part = part_of(dataset, name)
    overlap = Overlap(len(part), len(part), 0)
    tests: tuple[str, ...] = ()
    if name == "test":
        part, overlap = without_known(part, bundle.known or ImageDigests.of(dataset), data)
        tests = (digest_of_part(part),)
    return Selection(
        part, name, whole.fingerprint, own=True, summary=summarise_part(whole, part, name), overlap=overlap,
        tests=tests, split_is_known=bundle.manifest.data.split_is_known,
    )  # fmt: skip


def without_known(part: Part, known: ImageDigests | None, data: Path) -> tuple[Part, Overlap]:
    """The images of `part` that took no part in making a model; DataError where none is left."""
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


def reopen(manifest: Manifest, data: Path, cache: Path, progress: Progress | None = None) -> Dataset:
    """`data` with the split options that the bundle's data set was split with; it may be other data."""
    return manifest.data.reopen(data, image_size=manifest.preprocessing.image_size, cache=cache, progress=progress)


def reopen_same(
    manifest: Manifest, data: Path, cache: Path, progress: Progress | None = None, *, maker: str, way_out: str
) -> Dataset:
    """`data` split as the bundle's data set was; DataError where it holds other images or is split otherwise.

    The message calls the bundle, or what it was made from, `maker`, and ends with `way_out`.
    """
    dataset = reopen(manifest, data, cache, progress)
    manifest.data.refuse_other_images(dataset, data, maker=maker, way_out=way_out, classes=manifest.classes)
    refuse_other_split(manifest, dataset, data, maker=maker)
    return dataset


def refuse_other_split(
    manifest: Manifest, dataset: Dataset, data: Path, *, maker: str, options: SplitOptions | None = None
) -> None:
    """DataError where the bundle's images are split otherwise in `dataset`, which was opened with `options`.

    None means those of the bundle.
    """
    manifest.data.refuse_other_split(
        dataset, data, options=options or manifest.data.options, maker=maker,
        way_out="give the --seed and the fractions that it was made with, or use the version of hpo that made it",
    )  # fmt: skip


def part_of(dataset: Dataset, name: PartName) -> Part:
    """A part by its name; asking for test opens it, which the caller records. DataError where there is none."""
    return dataset.open_test() if name == "test" else getattr(dataset, name)


def measure(model: Model, part: Part, *, batch_size: int = BATCH_SIZE, progress: Progress | None = None) -> Report:
    """The report on all images of `part`, `batch_size` in memory at a time."""
    return examine(model, part, batch_size=batch_size, progress=progress).report
