"""A source of images in an `.npz`: keys `images` and `labels`, or `train_images`, `train_labels`, `val_…`, `test_…`.

Keys with parts are those of MedMNIST. The word before `_images` may be any word for a part (valid_, validation_,
Training_); every other array of images is refused, and everything else is left out by name.
"""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hpo.data import digests
from hpo.data.archives import open_zip, refuse_twice
from hpo.data.dataset import LeftOut, PartName
from hpo.data.decode import refuse_large
from hpo.data.layout import left_out_files
from hpo.data.names import class_name, class_notes, names_as_written, names_images, part_notes, part_of, unused_notes
from hpo.data.npy import NpyMember, open_member
from hpo.data.records import CHUNK, PARTS, Listing, Read, Record
from hpo.errors import DataError

_CLASS_KEYS = ("classes", "label_names")

_OTHER_KEYS = {
    "images": "x img imgs image pictures pixels data",
    "labels": "y label target targets class",
    "classes": "names labelnames classnames targetnames categories classlabels",
}
"""Frequent other names for our keys, with a part before or behind (x_train). They are suggested, never read."""

_WANTED = "images and labels, or train_images and train_labels (val_… and test_… beside them)"


class ArraySource:
    """An `.npz`. Class names come from `classes` or `label_names`, else they are the labels themselves."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def chunk(self) -> int:
        """The number of rows that fit into 8 MiB, at most `CHUNK`."""
        with open_zip(self.path) as archive:
            return min([CHUNK, *(member.rows_at_once for _, member in image_members(archive))])

    def key(self) -> str:
        """Return the digest of the file's own path and stamp."""
        return digests.of_file(self.path)

    def listing(self) -> Listing:
        """Return the listing. Labels are read, images are not."""
        with open_zip(self.path) as archive:
            members = image_members(archive)
            labels = [_labels(archive, member) for _, member in members]
            names_key, names = _class_names(archive, texts=labels[0].dtype.kind == "U")
            numbered = _number_labels(labels, names, str(self.path))
            used = {name for _, member in members for name in (member.key, _labels_key(member.key))} | {names_key}
            left_out, notes = _describe_unused(archive, used)
        records = (
            Record(f"{member.key}[{row}]", int(number), part)
            for (part, member), part_numbers in zip(members, numbered.numbers, strict=True)
            for row, number in enumerate(part_numbers)
        )
        notes = [*part_notes({member.key: part for part, member in members if part}), *notes]
        notes += class_notes(numbered.classes, numbered.written)
        return Listing(numbered.classes, tuple(records), left_out, tuple(notes), numbered.earlier)

    @contextmanager
    def reads(self) -> Iterator[Iterator[Read]]:
        """Yield the reads of the rows, which are decompressed a block at a time."""
        with open_zip(self.path) as archive:
            members = image_members(archive)
            yield (read for _, member in members for read in row_reads(member))


def image_members(archive: zipfile.ZipFile) -> list[tuple[PartName | None, NpyMember]]:
    """Return the arrays of images with their parts. Raise DataError if there is none, or one holds no images."""
    keys = _keys(archive)
    parts = _image_keys(keys, str(archive.filename))
    if not parts:
        hint = _rename_hint(keys, "images", "labels")
        raise DataError(f"{archive.filename} has the keys {', '.join(keys) or 'none'}, but must have {_WANTED}{hint}")
    members = [(part, open_member(archive, parts[part])) for part in (None, *PARTS) if part in parts]
    for _, member in members:
        _refuse_pixels(member, str(archive.filename))
    return members


def _keys(archive: zipfile.ZipFile) -> list[str]:
    """Return the names of the arrays. Raise DataError if one is there twice."""
    names = archive.namelist()
    refuse_twice(names, str(archive.filename))
    return [name.removesuffix(".npy") for name in names if name.endswith(".npy")]


def _image_keys(keys: Sequence[str], where: str) -> dict[PartName | None, str]:
    """Return part -> key of its images; `images` has part None. Raise DataError for other arrays of images."""
    parts: dict[PartName | None, str] = {}
    for key in keys:
        if not names_images(key):
            _refuse_bare_labels(key, keys, where)
            continue
        part = part_of(key.removesuffix("images")) if key.endswith("_images") else None
        if part == "unclear" or (part is None and key != "images"):
            raise DataError(
                f"{where} has {key}, but images must be in images or in train_images, val_images and test_images: "
                "rename or remove it"
            )
        if part in parts:
            raise DataError(f"{where} has {parts[part]} and {key} for one part: join them, or remove one")
        parts[part] = key
    if None in parts and len(parts) > 1:
        others = [key for part, key in parts.items() if part]
        raise DataError(
            f"{where} has images beside {', '.join(others)}, and it is not clear which part images is: "
            "rename it and its labels to train_images and train_labels, or remove one of the two"
        )
    return parts


def _suggested_key(key: str) -> str | None:
    """Return our key for a frequent other name: `train_images` for x_train; None for other keys."""
    words = [word for word in re.split(r"[\W_]+", key.lower()) if word]
    if "".join(words) in _OTHER_KEYS["classes"].split():
        return "classes"
    kinds = [kind for word in words for kind in ("images", "labels") if word in _OTHER_KEYS[kind].split()]
    if len(kinds) != 1:
        return None
    kind = kinds[0]
    rest = "_".join(word for word in words if word not in _OTHER_KEYS[kind].split())
    part = part_of(rest)
    if not rest:
        return kind
    return f"{part}_{kind}" if part in PARTS else None


def _rename_hint(keys: Collection[str], *kinds: str) -> str:
    """Return `: rename x_train to train_images`; empty if no key is another name for one of these kinds."""
    names = {key: ours for key in keys if (ours := _suggested_key(key)) and ours.endswith(kinds)}
    return f": rename {', '.join(f'{key} to {ours}' for key, ours in names.items())}" if names else ""


def _refuse_bare_labels(key: str, keys: Sequence[str], where: str) -> None:
    """Raise DataError for the labels of a part whose images are missing."""
    images = f"{key.removesuffix('labels')}images"
    if key.endswith("_labels") and part_of(key.removesuffix("labels")) and images not in keys:
        raise DataError(f"{where} has {key} but no {images}: add {images}, or remove {key}")


def row_reads(member: NpyMember) -> Iterator[Read]:
    """Return one read per row; the row is in memory when its read is given."""
    return (partial(np.asarray, row) for row in member.rows())


def _refuse_pixels(member: NpyMember, path: str) -> None:
    """Raise DataError unless rows are images of 8 or 16 bits."""
    where = f"{member.key} in {path}"
    if member.dtype.kind == "f":
        raise DataError(
            f"{where} are {member.dtype}, but must be uint8 (0 to 255) or uint16: "
            "if they run from 0 to 1, save (images * 255).round().astype(np.uint8)"
        )
    if member.dtype.newbyteorder("=") not in (np.uint8, np.uint16, np.bool_):
        raise DataError(f"{where} are {member.dtype}, but must be uint8 (0 to 255), uint16 or bool: save them as uint8")
    shape = member.shape
    if not (len(shape) == 3 or (len(shape) == 4 and shape[3] in (1, 3, 4))) or not math.prod(shape[1:]):
        way_out = "; save images.transpose(0, 2, 3, 1)" if len(shape) == 4 and shape[1] in (1, 3, 4) else ""
        raise DataError(
            f"{where} have shape {shape}, but must be (N, H, W), (N, H, W, 1), (N, H, W, 3) or (N, H, W, 4){way_out}"
        )
    refuse_large(shape[1] * shape[2])


def _labels(archive: zipfile.ZipFile, images: NpyMember) -> npt.NDArray[Any]:
    """Return (n,) whole numbers or texts, one per image."""
    key = _labels_key(images.key)
    if f"{key}.npy" not in archive.namelist():
        hint = _rename_hint([other for other in _keys(archive) if _suggested_key(other) == key], "labels").replace(
            ":", ", or", 1
        )
        raise DataError(f"{archive.filename} has {images.key} but no {key}: add {key}, one per image{hint}")
    member = open_member(archive, key)
    where = f"{key} in {archive.filename}"
    if member.dtype.kind not in "iubU":
        raise DataError(f"{where} are {member.dtype}, but must be whole numbers or texts: save {key}.astype(np.int64)")
    if len(member.shape) > 2 or (len(member.shape) == 2 and member.shape[1] != 1):
        raise DataError(f"{where} have shape {member.shape}, but must be (N,) or (N, 1): one class per image")
    if member.shape[0] != images.shape[0]:
        raise DataError(
            f"{where} has {member.shape[0]} entries for {images.shape[0]} images, but must have one per image"
        )
    return member.whole().reshape(-1)


def _labels_key(images_key: str) -> str:
    return images_key.removesuffix("images") + "labels"


class _ClassNames(NamedTuple):
    """The names of the classes, in the order of their numbers."""

    classes: tuple[str, ...]
    earlier: tuple[str, ...]
    """The classes as they are written, as in `Listing.written`."""


def _class_names(archive: zipfile.ZipFile, *, texts: bool) -> tuple[str, _ClassNames | None]:
    """Return key and names of the classes; ("", None) if there are none, or if the labels are the names (`texts`)."""
    key = next((key for key in _CLASS_KEYS if f"{key}.npy" in archive.namelist()), None)
    if key is None or texts:
        return "", None
    where = str(archive.filename)
    written = tuple(str(name) for name in open_member(archive, key).whole().reshape(-1))
    names = tuple(class_name(name, where) for name in written)
    if len(set(names)) != len(names):
        raise DataError(f"{key} in {where} has a name twice, but every class needs its own: rename one")
    return key, _ClassNames(names, written if written != names else ())


class _NumberedLabels(NamedTuple):
    """The classes, the labels as positions in them (one array per part), and the labels as they are written."""

    classes: tuple[str, ...]
    numbers: list[npt.NDArray[np.int64]]
    written: tuple[str, ...] = ()
    earlier: tuple[str, ...] = ()
    """The classes as they are written, as in `Listing.written`."""


def _number_labels(labels: Sequence[npt.NDArray[Any]], names: _ClassNames | None, path: str) -> _NumberedLabels:
    """Number the labels. Classes are `names`, or the labels themselves: numbers by value, texts in their order."""
    texts = labels[0].dtype.kind == "U"
    kinds = [array.dtype.kind for array in labels]
    if 0 < kinds.count("U") < len(kinds):
        raise DataError(f"labels in {path} are numbers in one part and texts in another, but must be of one kind")
    if 0 < kinds.count("b") < len(kinds):
        labels = [array.astype(np.uint8) if array.dtype.kind == "b" else array for array in labels]
    # As Python's numbers: NumPy has no type for both int64 and uint64, and takes floats, which round.
    rows = [array.tolist() for array in labels]
    if names is None:
        return _number_by_value(rows, path, texts=texts)
    count = len(names.classes)
    wrong = next((value for value in chain.from_iterable(rows) if not 0 <= value < count), None)
    if wrong is not None:
        raise DataError(f"label {wrong} in {path} has no name: with {count} names it must be 0 to {count - 1}")
    return _NumberedLabels(names.classes, [array.astype(np.int64) for array in labels], earlier=names.earlier)


def _number_by_value(rows: Sequence[Sequence[int | str]], path: str, *, texts: bool) -> _NumberedLabels:
    """Number the labels where they are the classes themselves."""
    values = sorted(set(chain.from_iterable(rows)))
    own = {value: class_name(str(value), path) for value in values}
    classes = tuple(sorted(set(own.values()))) if texts else tuple(own.values())
    position = {name: number for number, name in enumerate(classes)}
    numbers = [np.array([position[own[value]] for value in some], dtype=np.int64) for some in rows]
    written = tuple(map(str, values))
    earlier = names_as_written(classes, dict(zip(written, own.values(), strict=True))) if texts else ()
    return _NumberedLabels(classes, numbers, written, earlier)


def _describe_unused(archive: zipfile.ZipFile, used: set[str]) -> tuple[tuple[LeftOut, ...], list[str]]:
    """Return what the `.npz` holds beside the arrays `used`, and lines on arrays that look like a split or groups."""
    names = {key: _text_values(archive, key) for key in _keys(archive) if key not in used}
    arrays = (LeftOut("array", len(names), tuple(names)),) if names else ()
    files = left_out_files(name for name in archive.namelist() if not name.endswith(".npy"))
    named = [] if used.intersection(_CLASS_KEYS) else [key for key in names if _suggested_key(key) == "classes"]
    notes = [f"array {key} looks like names of classes, but is not read: rename it to classes" for key in named]
    return (*files, *arrays), [*notes, *unused_notes("array", names, split_known=False)]


def _text_values(archive: zipfile.ZipFile, key: str) -> Collection[str]:
    """Return the different values of an array of texts; nothing for other arrays, which are not read."""
    try:
        member = open_member(archive, key)
        return set(member.whole().tolist()) if member.dtype.kind == "U" and len(member.shape) == 1 else ()
    except DataError:
        return ()  # an unused array may be of any kind, or damaged
