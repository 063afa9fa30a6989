"""A packed data set: uint8 images, labels, and the parts train, val and test as index lists.

The images of all parts lie in one memory map that every worker of a host shares; a part holds indices into it, never
a copy. The test part is locked: `train` and `val` are plain fields, `open_test()` is the only way to the test part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from hpo.data.changes import DataChanges
from hpo.errors import DataError

Images = npt.NDArray[np.uint8]

Labels = npt.NDArray[np.int64]

Rows = npt.NDArray[np.int64]
"""Positions in a part."""

Progress = Callable[[int, int], None]
"""A callback that takes the number done and the total."""

PartName = Literal["train", "val", "test"]

RecordedGroups = tuple[tuple[str, ...], ...]
"""Groups of images, each named by the first 16 hex digits of the digest of its stored bytes."""


class Prepare(Protocol):
    """The preprocessing of a network: what it makes of the pixels that are packed."""

    identity: str
    """Names the preprocessing and its version: features of prepared images are stored under it."""

    def __call__(self, images: Images, rows: Rows, /) -> Images:
        """Return `images` (b, S, S, 3) uint8, which may be changed in place; `rows` (b,) are theirs in the set."""


@dataclass(frozen=True)
class Part:
    """Some images of a packed set. Row i is `images[indices[i]]`, of class `labels[i]`, named `names[i]`."""

    images: Images
    """(M, S, S, 3) uint8 memory map of the whole set, RGB."""
    indices: Labels
    """(n,) int64 rows of `images`."""
    labels: Labels
    """(n,) int64 class numbers."""
    names: Sequence[str]
    """n paths or keys relative to the data set, readable by people."""
    digests: Sequence[tuple[str, str]] = ()
    """n pairs of hex digests: of the stored image, and of its pixels at the stored size; empty if not known."""
    prepare: Prepare | None = None
    """Changes every batch: the preprocessing of a network; None for the images as they are packed."""

    def __len__(self) -> int:
        return len(self.indices)

    def batch(self, rows: npt.NDArray[np.int64]) -> Images:
        """Return a copy of the rows (b,) of this part as (b, S, S, 3) uint8."""
        places = self.indices[rows]
        images = self.images[places]
        return images if self.prepare is None else self.prepare(images, places)

    def batches(self, size: int, progress: Progress | None = None) -> Iterator[Images]:
        """Yield copies of all images in order as (b, S, S, 3) uint8, b = `size` except in the last batch.

        `progress` is called each time the consumer has finished a batch.
        """
        for rows in rows_in_order(len(self), size):
            yield self.batch(rows)
            if progress is not None:
                progress(int(rows[-1]) + 1, len(self))

    def joined(self, other: Part) -> Part:
        """Return this part followed by another part of the same packed set."""
        if self.images is not other.images:
            raise ValueError("parts of two different packed sets cannot be joined")
        return Part(
            self.images,
            np.concatenate([self.indices, other.indices]),
            np.concatenate([self.labels, other.labels]),
            [*self.names, *other.names],
            [*self.digests, *other.digests],
            self.prepare,
        )

    def subset(self, rows: npt.NDArray[np.int64]) -> Part:
        """Return the rows (b,) of this part, in that order, as a part."""
        names = [self.names[row] for row in rows]
        digests = [self.digests[row] for row in rows] if self.digests else ()
        return Part(self.images, self.indices[rows], self.labels[rows], names, digests, self.prepare)


def rows_in_order(count: int, size: int) -> list[Rows]:
    """Return 0..count-1 in batches of `size`; the last batch may be smaller."""
    return [np.arange(start, min(start + size, count)) for start in range(0, count, size)]


@dataclass(frozen=True)
class Unreadable:
    """An image that was skipped, with the reason."""

    name: str
    reason: str


@dataclass(frozen=True)
class LeftOut:
    """Things of one kind that lie in a data set and are not read as images."""

    kind: str
    """A suffix such as «.heic», «without a suffix», «array» or «column»."""
    count: int
    names: tuple[str, ...] = ()
    """The first few files; all arrays and columns."""


@dataclass(frozen=True)
class Dataset:
    """A packed, split data set at one image size."""

    train: Part
    val: Part
    classes: tuple[str, ...]
    """Class names; the label is the position."""
    image_size: int
    """Side S of the packed images, in pixels."""
    fingerprint: str
    """Hex digest of the content: classes, image bytes and given splits; independent of path, order and image size."""
    split: str
    """How the parts were made, in words, as «stratified 80/10/10, seed 0»."""
    unreadable: tuple[Unreadable, ...] = ()
    duplicates: int = 0
    """Images beyond the first of each group whose pixels are exactly equal."""
    leaking: int = 0
    """Duplicates that a *given* split puts into two parts; a split made by hpo has none."""
    left_out: tuple[LeftOut, ...] = ()
    """Files and other things in the data set that are not read, by kind."""
    notes: tuple[str, ...] = ()
    """How the data were read, and what is suspicious about them; one line each."""
    white_level: int | None = None
    """The value of 16-bit images that became 255; None where no image needs one."""
    earlier_fingerprint: str = ""
    """The fingerprint over the class names as earlier versions of hpo wrote them; "" where none differs."""
    copies: RecordedGroups = ()
    """Groups of different images that show one picture, which a split made by hpo keeps in one part."""
    folds: tuple[Part, ...] = ()
    """The images that validate in each fold; all together are train and val. Empty without folds; the first is val."""
    changes: DataChanges = field(default_factory=DataChanges)
    """The decisions on single images that are applied; all other values are those after them."""
    unchanged_fingerprint: str = ""
    """The fingerprint of the same data without the changes; "" where nothing is changed."""
    _test: Part | None = field(default=None, repr=False)

    def fold(self, number: int) -> tuple[Part, Part]:
        """Return what trains and what validates in a fold, from 0; fold 0 is `train` and `val`."""
        if not number:
            return self.train, self.val
        pool = self.train.joined(self.val)
        rows = np.flatnonzero(~np.isin(pool.indices, self.folds[number].indices))
        return pool.subset(rows[np.argsort(pool.indices[rows], kind="stable")]), self.folds[number]

    @property
    def test_count(self) -> int:
        """The number of images in the test part; 0 when there is none. Counting them does not open it."""
        return len(self._test) if self._test is not None else 0

    def digests(self, name: PartName) -> Sequence[tuple[str, str]]:
        """Return the digests of a part's images, as in `Part`. Those of the test part are given without opening it."""
        part: Part | None = self._test if name == "test" else getattr(self, name)
        return part.digests if part is not None else ()

    def class_counts(self) -> dict[str, list[int]]:
        """Return images per class, in the order of `classes`, for each part. Counting does not open the test part."""
        parts = {"train": self.train, "val": self.val, "test": self._test}
        return {
            name: np.bincount(part.labels if part else [], minlength=len(self.classes)).tolist()
            for name, part in parts.items()
        }

    def open_test(self) -> Part:
        """Return the locked test part. Each caller records the test access first."""
        if self._test is None or not self.test_count:
            raise DataError("the data set has no test part: add a test/ folder, or give --test-fraction above 0")
        return self._test


@dataclass(frozen=True)
class WholeData:
    """All images of a data set, or of one given part of it, with labels as positions in the requested classes."""

    part: Part
    classes: tuple[str, ...]
    fingerprint: str
    """The fingerprint or count of the whole data set, as in `Dataset`."""
    given_parts: frozenset[PartName]
    """The parts that the data set itself names; empty where it has no split."""
    unreadable: tuple[Unreadable, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    """Files and other things in the data set that are not read, by kind."""
    notes: tuple[str, ...] = ()
    """How the data were read, and what is suspicious about them; one line each."""
    earlier_fingerprint: str = ""
    """As in `Dataset`."""
    duplicates: int = 0
    """The fingerprint or count of the whole data set, as in `Dataset`."""
    leaking: int = 0
