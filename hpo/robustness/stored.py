"""Images in a file that is whole or not there, and that proves it when it is opened.

    <folder>/<key>-<digest>.npy     (m, S, S, 3) uint8; the digest is that of the whole file

One process checks or makes a file while the others wait. A file whose digest does not agree is made anew.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from hpo.data.cache import exclusive
from hpo.disk import sync_folder

Images = npt.NDArray[np.uint8]
_BYTES = 16


def open_stored(folder: Path, key: str, shape: tuple[int, ...], rows: Iterator[Images]) -> Images:
    """A read-only map (shape) uint8 of the file of `key`, made first from `rows` where there is no whole one.

    Raises OSError, of a full disk say, and then leaves nothing half-made; DataError where the folder cannot be had.
    """
    with exclusive(folder):
        return _mapped(_whole(folder, key) or _written(folder, key, shape, rows))


def _whole(folder: Path, key: str) -> Path | None:
    """The file of the key, if it is as it was written."""
    return next((path for path in folder.glob(f"{key}-*.npy") if path.stem == f"{key}-{_digest(path)}"), None)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, _state).hexdigest()


def _state() -> hashlib.blake2b:
    return hashlib.blake2b(digest_size=_BYTES)


def _written(folder: Path, key: str, shape: tuple[int, ...], rows: Iterator[Images]) -> Path:
    """A new file in the place of any damaged one. Hold the lock."""
    for left in (*folder.glob("*.tmp"), *folder.glob(f"{key}-*.npy")):
        left.unlink()
    temporary = folder / f"{key}.tmp"
    try:
        with temporary.open("wb") as file:
            _write(file, shape, rows)
        path = temporary.with_name(f"{key}-{_digest(temporary)}.npy")
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(folder)
    return path


def _write(file: IO[bytes], shape: tuple[int, ...], rows: Iterator[Images]) -> None:
    """Plain writes, because a full disk under a writable memory map kills the process."""
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    for row in rows:
        file.write(row.data)
    file.flush()
    os.fsync(file.fileno())


def _mapped(path: Path) -> Images:
    """A plain view: rows taken from np.memmap itself cost a Python call each."""
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
