"""An array inside an `.npz`, row by row: the whole of it is never in memory, and nothing is ever unpickled."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from hpo.errors import DataError

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_FAULTS = (OSError, zipfile.BadZipFile, zlib.error, ValueError, EOFError, NotImplementedError, RuntimeError)
_READ_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True)
class NpyMember:
    """One array of an `.npz`: what its header says."""

    archive: zipfile.ZipFile
    key: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row along the first axis."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    @property
    def rows_at_once(self) -> int:
        """Rows that are read together: some 8 MiB, at least one."""
        return max(1, _READ_BYTES // max(1, self.row_bytes))

    def whole(self) -> npt.NDArray[Any]:
        """All of a small array, such as labels."""
        rows = list(self.rows())
        return np.stack(rows) if rows else np.empty(self.shape, self.dtype)

    def rows(self) -> Iterator[npt.NDArray[Any]]:
        """Every row in order; one block of rows is in memory at a time, and as long as one of them is held."""
        with _translated(self.archive, self.key), self.archive.open(f"{self.key}.npy") as stream:
            _read_header(stream)
            for start in range(0, self.shape[0], self.rows_at_once):
                count = min(self.rows_at_once, self.shape[0] - start)
                block = np.frombuffer(_exactly(stream, count * self.row_bytes), self.dtype)
                yield from block.reshape(count, *self.shape[1:])


def open_member(archive: zipfile.ZipFile, key: str) -> NpyMember:
    """The header of an array; DataError where it holds objects, is cut short or lies in Fortran order."""
    with _translated(archive, key), archive.open(f"{key}.npy") as stream:
        shape, fortran, dtype = _read_header(stream)
        header_bytes = stream.tell()
    where = f"{key} in {archive.filename}"
    if dtype.hasobject:
        raise DataError(f"{where} holds Python objects, which are never unpickled: save a uint8 array of one shape")
    if not shape:
        raise DataError(f"{where} is a single value, but must be an array with one row per image")
    if fortran and len(shape) > 1:
        raise DataError(f"{where} is in Fortran order, but must be in C order: save np.ascontiguousarray({key})")
    if archive.getinfo(f"{key}.npy").file_size != header_bytes + math.prod(shape) * dtype.itemsize:
        raise DataError(f"{where} is cut short: its header promises shape {shape}; copy or download it again")
    return NpyMember(archive, key, shape, dtype)


def _read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    if version not in _HEADERS:
        raise ValueError(f"version {version} of the .npy format is unknown")
    return _HEADERS[version](stream)


def _exactly(stream: IO[bytes], count: int) -> bytes:
    data = stream.read(count)
    if len(data) != count:
        raise EOFError("it is cut short")
    return data


@contextmanager
def _translated(archive: zipfile.ZipFile, key: str) -> Iterator[None]:
    """Turns what a damaged member raises into a DataError."""
    try:
        yield
    except _FAULTS as error:
        raise DataError(f"{key} in {archive.filename} cannot be read ({error}): copy or download it again") from None
