"""Images in an `.npz`: keys `images` and `labels`, or MedMNIST's `train_images`, `train_labels`, `val_…`, `test_…`."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hpo.data import digests
from hpo.data.archives import open_zip
from hpo.data.dataset import PartName
from hpo.data.decode import refuse_large
from hpo.data.npy import NpyMember, open_member
from hpo.data.records import CHUNK, PARTS, Listing, Read, Record
from hpo.errors import DataError

_CLASS_KEYS = ("classes", "label_names")
_WANTED = "images and labels, or train_images and train_labels (val_… and test_… beside them)"


class ArraySource:
    """An `.npz`; class names come from `classes` or `label_names`, else they are the labels themselves."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def chunk(self) -> int:
        """As many rows as fit 8 MiB, `CHUNK` at most."""
        with open_zip(self.path) as archive:
            return min([CHUNK, *(member.rows_at_once for _, member in image_members(archive))])

    def key(self) -> str:
        """Digest of the file's own path and stamp."""
        return digests.of_file(self.path)

    def listing(self) -> Listing:
        """Labels are read, images are not."""
        with open_zip(self.path) as archive:
            members = image_members(archive)
            labels = [_labels(archive, member) for _, member in members]
            classes, numbers = _numbered(labels, _class_names(archive), str(self.path))
        records = (
            Record(f"{member.key}[{row}]", int(number), part)
            for (part, member), part_numbers in zip(members, numbers, strict=True)
            for row, number in enumerate(part_numbers)
        )
        return Listing(classes, tuple(records))

    @contextmanager
    def reads(self) -> Iterator[Iterator[Read]]:
        """The rows come decompressed already, a block at a time."""
        with open_zip(self.path) as archive:
            members = image_members(archive)
            yield (read for _, member in members for read in row_reads(member))


def image_members(archive: zipfile.ZipFile) -> list[tuple[PartName | None, NpyMember]]:
    """The arrays of images and the part each belongs to; DataError where there is none, or it holds no images."""
    keys = [name.removesuffix(".npy") for name in archive.namelist()]
    parts: list[PartName | None] = [None] if "images" in keys else [part for part in PARTS if f"{part}_images" in keys]
    if not parts:
        raise DataError(f"{archive.filename} has the keys {', '.join(keys) or 'none'}, but must have {_WANTED}")
    members = [(part, open_member(archive, f"{part}_images" if part else "images")) for part in parts]
    for _, member in members:
        _refuse_pixels(member, str(archive.filename))
    return members


def row_reads(member: NpyMember) -> Iterator[Read]:
    """One read per row, which has been read already when it is given."""
    return (partial(np.asarray, row) for row in member.rows())


def _refuse_pixels(member: NpyMember, path: str) -> None:
    """DataError unless rows are images of 8 or 16 bits."""
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
    """(n,) whole numbers or texts, one per image."""
    key = images.key.removesuffix("images") + "labels"
    if f"{key}.npy" not in archive.namelist():
        raise DataError(f"{archive.filename} has {images.key} but no {key}: add {key}, one per image")
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


def _class_names(archive: zipfile.ZipFile) -> tuple[str, ...] | None:
    key = next((key for key in _CLASS_KEYS if f"{key}.npy" in archive.namelist()), None)
    if key is None:
        return None
    names = tuple(str(name) for name in open_member(archive, key).whole().reshape(-1))
    if len(set(names)) != len(names):
        raise DataError(f"{key} in {archive.filename} has a name twice, but every class needs its own: rename one")
    return names


def _numbered(
    labels: Sequence[npt.NDArray[Any]], names: tuple[str, ...] | None, path: str
) -> tuple[tuple[str, ...], list[npt.NDArray[np.int64]]]:
    """Class names, and per array the position of each label in them."""
    if len({array.dtype.kind == "U" for array in labels}) > 1:
        raise DataError(f"labels in {path} are numbers in one part and texts in another, but must be of one kind")
    if names is None or labels[0].dtype.kind == "U":
        values = np.unique(np.concatenate(labels))
        return tuple(str(value) for value in values), [np.searchsorted(values, array) for array in labels]
    numbers = [array.astype(np.int64) for array in labels]
    wrong = [value for array in numbers for value in array if not 0 <= value < len(names)]
    if wrong:
        raise DataError(
            f"label {wrong[0]} in {path} has no name: with {len(names)} names it must be 0 to {len(names) - 1}"
        )
    return names, numbers
