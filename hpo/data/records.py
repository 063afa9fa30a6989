"""The interface of a source of labelled images: a listing of records in order, and one lazy read for each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from hpo.data.dataset import LeftOut, PartName

Payload = bytes | npt.NDArray[Any]
"""A stored image: the bytes of a file, or an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)."""

Read = Callable[[], Payload]
"""A function that reads one image. It may be called once, in any thread; it raises DataError or OSError."""

PARTS: tuple[PartName, ...] = ("train", "val", "test")

PART_OF: dict[str, PartName] = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
"""The names under which a part is recognised, in lower case."""

CHUNK = 32
"""Images that one thread takes at once."""


@dataclass(frozen=True, slots=True)
class Record:
    """One image of a source."""

    name: str
    """Path or key relative to the data set, readable by people."""
    label: int
    """Position of the class in the listing's classes."""
    given: PartName | None
    """The part that the source names for it; None where it names none."""


@dataclass(frozen=True)
class Listing:
    """The images of a source, in the order in which `reads()` gives them."""

    classes: tuple[str, ...]
    """Every class that the source names, including those without an image."""
    records: tuple[Record, ...]
    left_out: tuple[LeftOut, ...] = ()
    """Files and other things in the data set that are not read, by kind."""
    notes: tuple[str, ...] = ()
    """How the layout was read, and what is suspicious about it; one line each."""
    written: tuple[str, ...] = ()
    """The classes as the data set writes them, where that differs (see `names.names_as_written`)."""

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """(n,) int64 class numbers."""
        return np.array([record.label for record in self.records], dtype=np.int64)


class Source(Protocol):
    """Labelled images in one of the supported forms. Everything is read lazily."""

    @property
    def path(self) -> Path:
        """The path of the data set."""

    @property
    def chunk(self) -> int:
        """The number of reads that a thread takes at once; smaller if images are large."""

    def key(self) -> str:
        """Return a hex digest of the files by name and stamp (`digests.stamp`). It is cheap: no image is read."""

    def listing(self) -> Listing:
        """Return classes and records. Raise DataError where the layout breaks a rule."""

    def reads(self) -> AbstractContextManager[Iterator[Read]]:
        """Yield one read per record, in the order of the listing, usable inside the `with`."""


_SYSTEM_FILES = (
    "__macosx",
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "icon\r",
    "@eadir",
    "$recycle.bin",
    "lost+found",
    "system volume information",
)


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is ignored: dot files, and metadata of operating systems."""
    return name.startswith(".") or name.lower() in _SYSTEM_FILES
