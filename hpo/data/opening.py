"""The entry points to labelled images: split for a search, or whole for an evaluation."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hpo.data.archives import ZipSource
from hpo.data.arrays import ArraySource
from hpo.data.changed_pack import change_pack, groups_of, joined_groups
from hpo.data.changes import DataChanges
from hpo.data.copy_groups import find_copy_groups, record, recorded_keys
from hpo.data.dataset import Dataset, LeftOut, PartName, Progress, RecordedGroups, WholeData
from hpo.data.folders import FolderSource
from hpo.data.grouped_split import ImageRows, assign_parts
from hpo.data.grouping import Grouping, group_images
from hpo.data.names import shortened, without_note
from hpo.data.pack import Pack, PackManifest, open_pack
from hpo.data.records import PARTS, Listing, Source
from hpo.data.relabelling import relabel
from hpo.data.split import Assignment, SplitOptions, check_classes, count_leaking, label_conflicts
from hpo.data.summary import DataSummary, left_out_line
from hpo.data.tables import TableSource
from hpo.errors import DataError

StrPath = str | os.PathLike[str]

_SHOWN = 3

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
    pack = open_pack(source, image_size, cache, white=white_level, check=check_listing, progress=progress)
    unchanged, pack = pack.manifest.fingerprint, change_pack(pack, changes, str(path))
    refuse_unreadable(manifest := pack.manifest, split.max_unreadable)
    assignment, grouping = _assign(source, pack, changes, split := replace(split, copies=find_groups(pack, split)))
    return Dataset(
        train=pack.part(assignment.rows("train")),
        val=pack.part(assignment.rows("val")),
        classes=manifest.classes,
        image_size=image_size,
        fingerprint=manifest.fingerprint,
        split=assignment.text,
        unreadable=manifest.unreadable,
        duplicates=count_duplicates(manifest.groups),
        leaking=count_leaking(manifest.given, manifest.groups),
        left_out=without_used(manifest.left_out, grouping),
        notes=(*notes_with(grouping, pack_notes(manifest)), *assignment.notes),
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


def notes_with(grouping: Grouping | None, notes: Sequence[str]) -> tuple[str, ...]:
    """Return the notes without one that says that the column which the images are grouped by is not read."""
    return without_note(notes, grouping.column) if grouping and grouping.column else tuple(notes)


def without_used(left_out: tuple[LeftOut, ...], grouping: Grouping | None) -> tuple[LeftOut, ...]:
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
    renamed: Mapping[str, str] | None = None,
    part: PartName | None = None,
    max_unreadable: float = 0.05,
    white_level: int | None = None,
    progress: Progress | None = None,
) -> WholeData:
    """Open all labelled images, or those of one given `part`, unsplit, with labels as positions in `classes`.

    `classes` are those of a model: the data set may lack some, and an unknown one is a DataError. With None they are
    those of the data set. `renamed` maps classes of the data set to these, or to "" to leave their images out.
    `white_level` is as in `open_dataset`.
    """
    pack = open_pack(open_source(path), image_size, Path(cache), white=white_level, progress=progress)
    refuse_unreadable(pack.manifest, max_unreadable)
    rows = _rows_of(pack.manifest, part, path)
    known = tuple(classes) if classes is not None else pack.manifest.classes
    groups = pack.manifest.groups
    relabelled, renaming = relabel(pack.part(rows), pack.manifest.classes, known, renamed or {}, str(path))
    return WholeData(
        part=relabelled,
        classes=known,
        fingerprint=pack.manifest.fingerprint,
        given_parts=frozenset(given for given in pack.manifest.given if given),
        unreadable=pack.manifest.unreadable,
        left_out=pack.manifest.left_out,
        notes=(*pack_notes(pack.manifest), *renaming),
        earlier_fingerprint=pack.manifest.earlier_fingerprint,
        duplicates=count_duplicates(groups),
        leaking=count_leaking(pack.manifest.given, groups),
    )


def count_classes(path: StrPath) -> int:
    """Return the number of classes, from the listing alone: nothing is decoded.

    Raise DataError where the data set is missing, has no images, or has fewer than two classes.
    """
    listing = open_source(path).listing()
    check_listing(listing)
    return len(listing.classes)


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
        notes=pack_notes(manifest),
        unreadable=manifest.unreadable,
        duplicates=count_duplicates(groups),
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


def check_path(data: Path) -> None:
    """Raise DataError where DATA does not exist or cannot be reached, before anything is imported or started."""
    try:
        data.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{data}: no such file or folder; DATA is a folder, a .zip, an .npz or a .csv") from None
    except OSError:
        pass  # `require_path` says what it is
    require_path(data)


def check_listing(listing: Listing) -> None:
    """Raise DataError where the classes of a listing cannot be searched; the message names what was left out."""
    try:
        check_classes(listing.classes, listing.labels)
    except DataError as error:
        raise DataError("; ".join([str(error), *_left_out(listing.left_out)])) from None


def _left_out(left_out: tuple[LeftOut, ...]) -> list[str]:
    return [left_out_line(left_out)] if left_out else []


def pack_notes(manifest: PackManifest) -> tuple[str, ...]:
    """Return the notes of the pack, and a line on duplicates with different labels."""
    conflicts = label_conflicts(manifest.label_array, manifest.groups, manifest.names)
    return (*manifest.notes, conflicts) if conflicts else manifest.notes


def count_duplicates(groups: Sequence[str]) -> int:
    """Return the number of images beyond the first of each group."""
    return len(groups) - len(set(groups))


def refuse_unreadable(manifest: PackManifest, allowed: float) -> None:
    """Raise DataError where a larger share of the images than `allowed` cannot be read."""
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
