"""What a source of labelled images gives: a listing of records in order, and one lazy read for each of them."""

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
"""An image as it is stored: the bytes of a file, or an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)."""

Read = Callable[[], Payload]
"""Reads one image; may be called once, in any thread; raises DataError or OSError with the reason."""

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
    """Path or key relative to the data set, as a person would recognise it."""
    label: int
    """Position in the listing's classes."""
    given: PartName | None
    """The part that the source puts it in, if it says so."""


@dataclass(frozen=True)
class Listing:
    """The images of a source, in the order in which `reads()` gives them."""

    classes: tuple[str, ...]
    """Every class the source names, those without an image among them."""
    records: tuple[Record, ...]
    left_out: tuple[LeftOut, ...] = ()
    """What lies there and is not read, by kind."""
    notes: tuple[str, ...] = ()
    """What was understood of the layout, or is suspicious about it; one line each."""
    written: tuple[str, ...] = ()
    """The classes as the data set writes them, where that differs (`names.names_as_written`)."""

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """(n,) int64 class numbers."""
        return np.array([record.label for record in self.records], dtype=np.int64)


class Source(Protocol):
    """Labelled images, wherever they lie. Nothing is read before it is asked for."""

    @property
    def path(self) -> Path:
        """Where the data set lies."""

    @property
    def chunk(self) -> int:
        """How many reads a thread takes at once: fewer where an image is large."""

    def key(self) -> str:
        """Hex digest of what lies there by name and stamp (`digests.stamp`); cheap, no image is read."""

    def listing(self) -> Listing:
        """Classes and records; raises DataError where the layout breaks a rule."""

    def reads(self) -> AbstractContextManager[Iterator[Read]]:
        """One read per record, in the order of the listing, usable inside the `with`."""


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
    """Whether a file or folder is left out unsaid: dot files, and what operating systems leave beside files."""
    return name.startswith(".") or name.lower() in _SYSTEM_FILES
