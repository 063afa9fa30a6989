"""The two doors to labelled images: split for a search, whole for an evaluation."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hpo.data.dataset import Dataset, LeftOut, Part, PartName, Unreadable
from hpo.data.manifest import Manifest
from hpo.data.names import class_name
from hpo.data.pack import Pack, Progress, open_pack
from hpo.data.records import PARTS, Listing
from hpo.data.sources import open_source
from hpo.data.split import SplitOptions, assign_splits, check_classes, count_leaking, disagreement
from hpo.data.summary import left_out_line
from hpo.errors import DataError

StrPath = str | os.PathLike[str]
_SHOWN = 3


@dataclass(frozen=True)
class WholeData:
    """All images of a data set, or one given part of it, with labels of the classes that were asked for."""

    part: Part
    classes: tuple[str, ...]
    fingerprint: str
    """Of the whole data set, as in `Dataset`."""
    given_parts: frozenset[PartName]
    """The parts that the data set itself names; empty where it has no split."""
    unreadable: tuple[Unreadable, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    """What lies there and is not read, by kind."""
    notes: tuple[str, ...] = ()
    """What was understood of the data, or is suspicious about it; one line each."""


def open_dataset(
    path: StrPath,
    *,
    image_size: int,
    cache: StrPath,
    split: SplitOptions | None = None,
    max_unreadable: float = 0.05,
    progress: Progress | None = None,
) -> Dataset:
    """Labelled images as train, val and, locked, test; packed into the folder `cache` first, where they are not yet.

    `image_size` is the side of the images in pixels; `max_unreadable` the fraction of images that may be skipped.
    Raises DataError for everything that is wrong with the data, UsageError for fractions out of range.
    """
    pack = open_pack(open_source(path), image_size, Path(cache), check=_check_listing, progress=progress)
    manifest = pack.manifest
    _refuse_unreadable(manifest, max_unreadable)
    groups = manifest.groups
    assignment = assign_splits(
        manifest.label_array, manifest.given, groups, classes=manifest.classes, options=split or SplitOptions(),
        names=manifest.names,
    )  # fmt: skip
    return Dataset(
        train=pack.part(assignment.rows("train")),
        val=pack.part(assignment.rows("val")),
        classes=manifest.classes,
        image_size=image_size,
        fingerprint=manifest.fingerprint,
        split=assignment.text,
        unreadable=manifest.unreadable,
        duplicates=len(groups) - len(set(groups)),
        leaking=count_leaking(manifest.given, groups),
        left_out=manifest.left_out,
        notes=(*_notes(manifest), *assignment.notes),
        _test=pack.part(assignment.rows("test")),
    )


def open_whole(
    path: StrPath,
    *,
    image_size: int,
    cache: StrPath,
    classes: Sequence[str] | None = None,
    part: PartName | None = None,
    max_unreadable: float = 0.05,
    progress: Progress | None = None,
) -> WholeData:
    """All labelled images, or those of one given `part`, unsplit, with labels as positions in `classes`.

    `classes` are those of a model: the data set may lack some, and an unknown one is a DataError. None takes its own.
    """
    pack = open_pack(open_source(path), image_size, Path(cache), progress=progress)
    _refuse_unreadable(pack.manifest, max_unreadable)
    rows = _rows_of(pack.manifest, part, path)
    known = tuple(classes) if classes is not None else pack.manifest.classes
    return WholeData(
        part=_relabelled(pack, rows, known, path),
        classes=known,
        fingerprint=pack.manifest.fingerprint,
        given_parts=frozenset(given for given in pack.manifest.given if given),
        unreadable=pack.manifest.unreadable,
        left_out=pack.manifest.left_out,
        notes=_notes(pack.manifest),
    )


def _check_listing(listing: Listing) -> None:
    try:
        check_classes(listing.classes, listing.labels)
    except DataError as error:
        raise DataError("; ".join([str(error), *_left_out(listing.left_out)])) from None


def _left_out(left_out: tuple[LeftOut, ...]) -> list[str]:
    return [left_out_line(left_out)] if left_out else []


def _notes(manifest: Manifest) -> tuple[str, ...]:
    """What was noticed when the pack was made, and images whose duplicates have another label."""
    said = disagreement(manifest.label_array, manifest.groups, manifest.names)
    return (*manifest.notes, said) if said else manifest.notes


def _refuse_unreadable(manifest: Manifest, allowed: float) -> None:
    skipped, total = len(manifest.unreadable), len(manifest) + len(manifest.unreadable)
    if len(manifest) and skipped <= allowed * total:
        return
    first = ", ".join(f"{entry.name} ({entry.reason})" for entry in manifest.unreadable[:_SHOWN])
    more = f" and {skipped - _SHOWN} more" if skipped > _SHOWN else ""
    raise DataError(
        f"{skipped} of {total} images cannot be read, more than the {100 * allowed:g} % allowed: "
        f"{first}{more}; mend or remove them, or raise --max-unreadable"
    )


def _rows_of(manifest: Manifest, part: PartName | None, path: StrPath) -> npt.NDArray[np.int64]:
    if part is None:
        return np.arange(len(manifest), dtype=np.int64)
    rows = np.array([row for row, given in enumerate(manifest.given) if given == part], dtype=np.int64)
    if not len(rows):
        there = ", ".join(name for name in PARTS if name in manifest.given) or "no split at all"
        raise DataError(
            f"{path} has no {part} part of its own, it has {there}: name one that is there, or take all images"
        )
    return rows


def _relabelled(pack: Pack, rows: npt.NDArray[np.int64], known: Sequence[str], path: StrPath) -> Part:
    """The rows as a part whose labels are positions in `known`."""
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
