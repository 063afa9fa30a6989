"""The entry points to labelled images: split for a search, whole for an evaluation, or inspected by a sample."""

from __future__ import annotations

import os
import stat
from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hpo.data.archives import ZipSource
from hpo.data.arrays import ArraySource
from hpo.data.changed_pack import change_pack, groups_of, joined_groups
from hpo.data.changes import DataChanges
from hpo.data.copy_groups import find_copy_groups, record, recorded_keys
from hpo.data.dataset import Dataset, LeftOut, Part, PartName, Progress, RecordedGroups, Unreadable, WholeData
from hpo.data.decode import silence_pillow
from hpo.data.folders import FolderSource
from hpo.data.grouped_split import ImageRows, assign_parts
from hpo.data.grouping import Grouping, group_images
from hpo.data.names import class_name, shortened
from hpo.data.pack import Pack, PackManifest, PackManifestDraft, open_pack
from hpo.data.pipeline import decode_all
from hpo.data.records import PARTS, Listing, Source
from hpo.data.split import Assignment, SplitOptions, check_classes, count_leaking, label_conflicts
from hpo.data.summary import DataSummary, left_out_line
from hpo.data.tables import TableSource
from hpo.errors import DataError

StrPath = str | os.PathLike[str]

_SHOWN = 3

_FEW_IMAGES = 500
"""`inspect_data` decodes all images of a data set of at most this many."""

_INSPECTION_SIZE = 32

_KINDS: dict[str, type[ZipSource] | type[ArraySource] | type[TableSource]] = {
    ".zip": ZipSource,
    ".npz": ArraySource,
    ".csv": TableSource,
}


def open_dataset(
    path: StrPath,
    *,
    image_size: int,
    cache: StrPath,
    split: SplitOptions | None = None,
    white_level: int | None = None,
    changes: DataChanges | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """Open labelled images as train, val and a locked test part; pack them into the folder `cache` if needed.

    `image_size` is a side in pixels; `white_level` the value of 16-bit images that becomes 255, None for the data set's
    own (`depth`); `changes` are decisions on single images. Raise DataError where the data are wrong, or an option.
    """
    source, cache, split = open_source(path), Path(cache), split or SplitOptions()
    pack = open_pack(source, image_size, cache, white=white_level, check=_check_listing, progress=progress)
    unchanged, pack = pack.manifest.fingerprint, change_pack(pack, changes, str(path))
    _refuse_unreadable(manifest := pack.manifest, split.max_unreadable)
    assignment, grouping = _assign(source, pack, changes, split := replace(split, copies=find_groups(pack, split)))
    return Dataset(
        train=pack.part(assignment.rows("train")),
        val=pack.part(assignment.rows("val")),
        classes=manifest.classes,
        image_size=image_size,
        fingerprint=manifest.fingerprint,
        split=assignment.text,
        unreadable=manifest.unreadable,
        duplicates=_duplicates(manifest.groups),
        leaking=count_leaking(manifest.given, manifest.groups),
        left_out=_without_used(manifest.left_out, grouping),
        notes=(*_notes(manifest), *assignment.notes),
        white_level=manifest.white_level,
        earlier_fingerprint=manifest.earlier_fingerprint,
        copies=split.copies or (),
        folds=tuple(pack.part(rows) for rows in assignment.fold_rows()),
        changes=DataChanges() if changes is None else changes,
        unchanged_fingerprint=unchanged if changes else "",
        _test=pack.part(assignment.rows("test")),
    )


def find_groups(pack: Pack, split: SplitOptions) -> RecordedGroups:
    """Return the groups of different images of a pack that show one picture; () where nothing is to be split."""
    manifest = pack.manifest
    if split.copies is not None:
        return split.copies
    if split.folds is None and {"val", "test"} <= set(manifest.given):
        return ()
    signatures = pack.signatures if pack.rows is None else pack.signatures[pack.rows]
    digests = list(zip(manifest.stored, manifest.pixels, strict=True))
    return record(find_copy_groups(signatures, digests, cache=pack.folder), digests)


def _assign(
    source: Source, pack: Pack, changes: DataChanges | None, split: SplitOptions
) -> tuple[Assignment, Grouping | None]:
    """Return the part of every image of a pack, and what they are grouped by beside copies and `changes`."""
    manifest = pack.manifest
    groups = joined_groups(groups_of(manifest, changes), recorded_keys(split.copies or (), manifest.stored))
    grouping = group_images(source, manifest.names, split.group_by) if split.group_by is not None else None
    rows = ImageRows(manifest.label_array, manifest.given, groups, manifest.names, manifest.classes)
    return assign_parts(rows, split, grouping), grouping


def _without_used(left_out: tuple[LeftOut, ...], grouping: Grouping | None) -> tuple[LeftOut, ...]:
    """Return what is left out without the column that the images are grouped by."""
    if grouping is None or grouping.column is None:
        return left_out
    others = (
        replace(entry, names=tuple(name for name in entry.names if name != grouping.column), count=entry.count - 1)
        if entry.kind == "column"
        else entry
        for entry in left_out
    )
    return tuple(entry for entry in others if entry.count)


def open_whole(  # noqa: PLR0913 - all but the path by name
    path: StrPath,
    *,
    image_size: int,
    cache: StrPath,
    classes: Sequence[str] | None = None,
    part: PartName | None = None,
    max_unreadable: float = 0.05,
    white_level: int | None = None,
    progress: Progress | None = None,
) -> WholeData:
    """Open all labelled images, or those of one given `part`, unsplit, with labels as positions in `classes`.

    `classes` are those of a model: the data set may lack some, and an unknown one is a DataError. With None they are
    those of the data set. `white_level` is as in `open_dataset`.
    """
    pack = open_pack(open_source(path), image_size, Path(cache), white=white_level, progress=progress)
    _refuse_unreadable(pack.manifest, max_unreadable)
    rows = _rows_of(pack.manifest, part, path)
    known = tuple(classes) if classes is not None else pack.manifest.classes
    groups = pack.manifest.groups
    return WholeData(
        part=_relabel(pack, rows, known, path),
        classes=known,
        fingerprint=pack.manifest.fingerprint,
        given_parts=frozenset(given for given in pack.manifest.given if given),
        unreadable=pack.manifest.unreadable,
        left_out=pack.manifest.left_out,
        notes=_notes(pack.manifest),
        earlier_fingerprint=pack.manifest.earlier_fingerprint,
        duplicates=_duplicates(groups),
        leaking=count_leaking(pack.manifest.given, groups),
    )


def count_classes(path: StrPath) -> int:
    """Return the number of classes, from the listing alone: nothing is decoded.

    Raise DataError where the data set is missing, has no images, or has fewer than two classes.
    """
    listing = open_source(path).listing()
    _check_listing(listing)
    return len(listing.classes)


@dataclass(frozen=True)
class Inspection:
    """The state of a data set, judged by some of its images."""

    images: int
    decoded: int
    """The number of images that were tried."""
    summary: DataSummary
    """Classes with counts per given part; `unreadable` holds the unreadable ones among the images that were tried."""


def inspect_data(path: StrPath, *, split: SplitOptions | None = None) -> Inspection:
    """Decode some images of each class, or all of a small data set, without packing any.

    Raise DataError where `open_dataset` would, as far as the listing and these images show it, and where no image of a
    class that was tried can be read. Duplicates are counted only where all images are decoded.
    """
    source, options = open_source(path), split or SplitOptions()
    listing = source.listing()
    _check_listing(listing)
    tried = _decode_sample(source, listing, _rows_to_try(listing.labels))
    _refuse_unreadable_class(tried, listing)
    whole = len(tried) + len(tried.unreadable) == len(listing.records)
    if whole:
        _refuse_unreadable(tried, options.max_unreadable)
        labels, given, groups, names = tried.label_array, tried.given, tried.groups, tried.names
    else:
        labels, given = listing.labels, tuple(record.given for record in listing.records)
        names = tuple(record.name for record in listing.records)
        groups = [str(row) for row in range(len(labels))]
    grouping = group_images(source, names, options.group_by) if options.group_by is not None else None
    assignment = assign_parts(ImageRows(labels, given, groups, names, listing.classes), options, grouping)
    summary = DataSummary(
        classes=listing.classes,
        counts=_given_counts(listing),
        left_out=_without_used(listing.left_out, grouping),
        notes=(*(_notes(tried) if whole else _sample_notes(tried, listing)), *assignment.notes),
        unreadable=tried.unreadable,
        duplicates=_duplicates(groups) if whole else None,
        leaking=count_leaking(given, groups) if whole else None,
    )
    return Inspection(len(listing.records), len(tried) + len(tried.unreadable), summary)


def summarise_pack(manifest: PackManifest) -> DataSummary:
    """Describe all readable images of a pack, by given part."""
    parts = {name or "images": name for name in (None, *PARTS) if name in manifest.given}
    labels, given = manifest.label_array, np.array(manifest.given, dtype=object)
    groups = manifest.groups
    return DataSummary(
        classes=manifest.classes,
        counts={
            shown: np.bincount(labels[given == part], minlength=len(manifest.classes)).tolist()
            for shown, part in parts.items()
        },
        left_out=manifest.left_out,
        notes=_notes(manifest),
        unreadable=manifest.unreadable,
        duplicates=_duplicates(groups),
        leaking=count_leaking(manifest.given, groups),
    )


def open_source(path: str | os.PathLike[str]) -> Source:
    """Return the source at a path, with nothing read yet. Raise DataError if it is missing or of no known kind."""
    path = require_path(path)
    if path.is_dir():
        return FolderSource(path)
    if kind := _KINDS.get(path.suffix.lower()):
        return kind(path)
    raise DataError(f"{path} is a file, but must be a folder of class folders, or a .zip, .npz or .csv file")


def require_path(path: str | os.PathLike[str], things: str = "folder, or of a .zip, .npz or .csv file") -> Path:
    """Return the path. Raise DataError if it is missing, or neither a folder nor an ordinary file.

    `things` says in the message of a missing path what may be given.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{path} does not exist: give the path of a {things}") from None
    except OSError as error:
        raise DataError(
            f"{path} cannot be reached ({error.strerror}): mend the link, or the permissions of the folders above it"
        ) from None
    if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
        raise DataError(f"{path} is a pipe, socket or device, but must be a folder or an ordinary file: copy it to one")
    return path


def _rows_to_try(labels: npt.NDArray[np.int64]) -> set[int]:
    """Return all rows of a small data set; else the first, the middle and the last of each class."""
    if len(labels) <= _FEW_IMAGES:
        return set(range(len(labels)))
    rows = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    return {int(of_class[at]) for of_class in rows for at in (0, len(of_class) // 2, -1)}


def _decode_sample(source: Source, listing: Listing, rows: set[int]) -> PackManifest:
    """Decode the chosen images at a small size and return the manifest that their pack would have."""
    draft = PackManifestDraft(_INSPECTION_SIZE, listing.classes, listing.left_out, listing.notes)
    records = iter([record for row, record in enumerate(listing.records) if row in rows])
    with silence_pillow(), source.reads() as reads:
        chosen = (read for row, read in enumerate(islice(reads, max(rows) + 1)) if row in rows)
        with closing(decode_all(chosen, _INSPECTION_SIZE, source.chunk)) as chunks:
            for decoded in chain.from_iterable(chunks):
                draft.add(next(records), decoded)
    return draft.finish()


def _refuse_unreadable_class(tried: PackManifest, listing: Listing) -> None:
    """Raise DataError for the first class of which no image that was tried can be read."""
    label = {record.name: record.label for record in listing.records}
    failed: dict[int, list[Unreadable]] = defaultdict(list)
    for image in tried.unreadable:
        failed[label[image.name]].append(image)
    for number in sorted(set(failed) - set(tried.labels)):
        first = failed[number][0]
        raise DataError(
            f"none of {len(failed[number])} images of class {listing.classes[number]!r} can be read, "
            f"the first is {first.name}: {first.reason}; mend or remove them"
        )


def _given_counts(listing: Listing) -> dict[str, list[int]]:
    """Return images per class for each given part, or under `images` where no part is given."""
    names = [part or "images" for part in (None, *PARTS)]
    labels = {
        name: [record.label for record in listing.records if (record.given or "images") == name] for name in names
    }
    return {name: np.bincount(some, minlength=len(listing.classes)).tolist() for name, some in labels.items() if some}


def _check_listing(listing: Listing) -> None:
    try:
        check_classes(listing.classes, listing.labels)
    except DataError as error:
        raise DataError("; ".join([str(error), *_left_out(listing.left_out)])) from None


def _left_out(left_out: tuple[LeftOut, ...]) -> list[str]:
    return [left_out_line(left_out)] if left_out else []


def _notes(manifest: PackManifest) -> tuple[str, ...]:
    """Return the notes of the pack, and a line on duplicates with different labels."""
    conflicts = label_conflicts(manifest.label_array, manifest.groups, manifest.names)
    return (*manifest.notes, conflicts) if conflicts else manifest.notes


def _sample_notes(tried: PackManifest, listing: Listing) -> tuple[str, ...]:
    """Return `_notes` where only some images were decoded; notes that come from these say so."""
    decoded = len(tried) + len(tried.unreadable)
    return tuple(
        note if note in listing.notes else f"of the {decoded:,} images tried: {note}" for note in _notes(tried)
    )


def _duplicates(groups: Sequence[str]) -> int:
    """Return the number of images beyond the first of each group."""
    return len(groups) - len(set(groups))


def _refuse_unreadable(manifest: PackManifest, allowed: float) -> None:
    skipped, total = len(manifest.unreadable), len(manifest) + len(manifest.unreadable)
    if len(manifest) and skipped <= allowed * total:
        return
    first = shortened([f"{entry.name} ({entry.reason})" for entry in manifest.unreadable], _SHOWN)
    raise DataError(
        f"{skipped} of {total} images cannot be read, more than the {100 * allowed:g} % allowed: "
        f"{first}; mend or remove them, or raise --max-unreadable"
    )


def _rows_of(manifest: PackManifest, part: PartName | None, path: StrPath) -> npt.NDArray[np.int64]:
    if part is None:
        return np.arange(len(manifest), dtype=np.int64)
    rows = np.array([row for row, given in enumerate(manifest.given) if given == part], dtype=np.int64)
    if not len(rows):
        there = ", ".join(name for name in PARTS if name in manifest.given) or "no split at all"
        raise DataError(
            f"{path} has no {part} part of its own, it has {there}: name one that is there, or take all images"
        )
    return rows


def _relabel(pack: Pack, rows: npt.NDArray[np.int64], known: Sequence[str], path: StrPath) -> Part:
    """Return the rows as a part whose labels are positions in `known`."""
    part = pack.part(rows)
    own = pack.manifest.classes
    number = {class_name(name, str(path)): position for position, name in enumerate(known)}
    used = [own[label] for label in np.unique(part.labels)]
    if unknown := [name for name in used if name not in number]:
        raise DataError(
            f"class {unknown[0]!r} of {path} is unknown to the model, which knows {', '.join(known)}: "
            "rename or remove it"
        )
    table = np.array([number.get(name, -1) for name in own], dtype=np.int64)
    return replace(part, labels=table[part.labels])
