"""Measure a bundle on labelled images: a part of its own data, a given part of other data, or all of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpo.data import (
    Dataset,
    DataSummary,
    Part,
    PartName,
    Progress,
    SplitOptions,
    Unreadable,
    WholeData,
    open_whole,
    summarise_part,
)
from hpo.delivery.bundle import new_opening, record_opening, record_result
from hpo.delivery.manifest import Manifest
from hpo.delivery.measurement import Measurement, examine
from hpo.delivery.model import BATCH_SIZE, Model
from hpo.delivery.tta import Tta, check_tta
from hpo.evaluation.metrics import Report


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

    @property
    def unreadable(self) -> tuple[Unreadable, ...]:
        """Images of the whole data set that were skipped."""
        return self.summary.unreadable


@dataclass(frozen=True)
class Evaluation:
    """A measurement and what it is about."""

    measurement: Measurement
    selection: Selection
    openings: int | None
    """How often this test part has been opened with this bundle, this time included; None for other parts."""

    @property
    def report(self) -> Report:
        """Of the images as they are, without test-time augmentation."""
        return self.measurement.report

    def to_dict(self) -> dict[str, Any]:
        """The measurement's dictionary, and which images it is about."""
        return {
            **self.measurement.to_dict(),
            "split": self.selection.name or "all",
            "own_data": self.selection.own,
            "unreadable": len(self.selection.unreadable),
            "data": self.selection.summary.to_json(),
            "test_openings": self.openings,
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
    """Evaluate a loaded bundle on the images that `select` chooses; a look at a test part is recorded in the bundle.

    With `tta` also by the mean over its views. Images are packed into `cache` first; `progress` hears of that and then
    of the evaluation. DataError as in `select`.
    """
    check_tta(tta, model.config.symmetry)
    selection = select(model.bundle.manifest, data, cache=cache, split=split, progress=progress)
    if selection.name != "test":
        found = examine(model, selection.part, tta=tta, batch_size=batch_size, progress=progress)
        return Evaluation(found, selection, None)
    opening = new_opening("evaluate", selection.fingerprint, len(selection.part))
    openings = record_opening(model.bundle.path, opening)
    found = examine(model, selection.part, tta=tta, batch_size=batch_size, progress=progress)
    record_result(model.bundle.path, opening, found.report.accuracy)
    return Evaluation(found, selection, openings)


def select(
    manifest: Manifest, data: Path, *, cache: Path, split: PartName | None, progress: Progress | None = None
) -> Selection:
    """Which images of `data` a bundle is evaluated on.

    The bundle's own data: the same split is made again and `split` names its part, test by default. Other data with
    given parts: the same, of those. Other data without parts: all of it, whatever `split` says. Raises DataError for
    unusable data, a part that is not there and a class that the bundle does not know.
    """
    size, allowed = manifest.preprocessing.image_size, manifest.data.max_unreadable
    whole = open_whole(
        data, image_size=size, cache=cache, classes=manifest.classes, max_unreadable=allowed,
        white_level=manifest.data.white, progress=progress,
    )  # fmt: skip
    own = whole.fingerprint == manifest.data.fingerprint
    if not own and not whole.given_parts:
        return _selection(whole, whole.part, None, own)
    name = split or "test"
    if own:
        part = part_of(reopen(manifest, data, cache), name)
    else:
        part = open_whole(
            data, image_size=size, cache=cache, classes=manifest.classes, max_unreadable=allowed, part=name,
            white_level=manifest.data.white,
        ).part  # fmt: skip
    return _selection(whole, part, name, own)


def _selection(whole: WholeData, part: Part, name: PartName | None, own: bool) -> Selection:
    return Selection(part, name, whole.fingerprint, own, summarise_part(whole, part, name or "all"))


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
