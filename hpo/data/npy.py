"""Arrays inside an `.npz`, read row by row: large ones are never in memory as a whole, and nothing is unpickled."""

from __future__ import annotations

import math
import struct
import tokenize
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from hpo.data.archives import FAULTS, refuse_packing
from hpo.errors import DataError

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}

_FAULTS = (*FAULTS, TypeError, SyntaxError, tokenize.TokenError, MemoryError)
"""The errors that zipfile and NumPy raise on damaged members and headers."""

_LENGTHS = {(1, 0): "<H", (2, 0): "<I"}
"""The format of the length of a header (NumPy, `numpy.lib.format`)."""

_READ_BYTES = 8 * 1024 * 1024

_WHOLE_BYTES = 256 * 1024 * 1024
"""The largest array that is read as a whole, such as labels."""

_HEADER_BYTES = 65_536

MAX_ROWS = 5_000_000
"""The largest number of images in one array."""


@dataclass(frozen=True)
class NpyMember:
    """One array of an `.npz`, as its header describes it."""

    archive: zipfile.ZipFile
    key: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def row_bytes(self) -> int:
        """The bytes of one row along the first axis."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    @property
    def rows_at_once(self) -> int:
        """The number of rows that are read together: about 8 MiB, at least one row."""
        return max(1, _READ_BYTES // max(1, self.row_bytes))

    def whole(self) -> npt.NDArray[Any]:
        """Return all of a small array, such as labels. Raise DataError for a larger one."""
        size = self.shape[0] * self.row_bytes
        if size > _WHOLE_BYTES:
            raise DataError(
                f"{self.key} in {self.archive.filename} has {size / 1e6:.0f} MB, more than the limit of "
                f"{_WHOLE_BYTES / 1e6:.0f} MB: save it with a smaller type"
            )
        rows = list(self.rows())
        return np.stack(rows) if rows else np.empty(self.shape, self.dtype)

    def rows(self) -> Iterator[npt.NDArray[Any]]:
        """Yield every row in order. A block of rows stays in memory as long as one of its rows is held."""
        with _translate_faults(self.archive, self.key), self.archive.open(f"{self.key}.npy") as stream:
            _read_header(stream)
            for start in range(0, self.shape[0], self.rows_at_once):
                count = min(self.rows_at_once, self.shape[0] - start)
                block = np.frombuffer(_exactly(stream, count * self.row_bytes), self.dtype)
                yield from block.reshape(count, *self.shape[1:])


def open_member(archive: zipfile.ZipFile, key: str) -> NpyMember:
    """Read the header of an array. Raise DataError for objects, Fortran order, and arrays cut short or too long."""
    refuse_packing(archive.getinfo(f"{key}.npy"), key, str(archive.filename))
    with _translate_faults(archive, key), archive.open(f"{key}.npy") as stream:
        shape, fortran, dtype = _read_header(stream)
        header_bytes = stream.tell()
    where = f"{key} in {archive.filename}"
    if dtype.hasobject:
        raise DataError(f"{where} holds Python objects, which are never unpickled: save a uint8 array of one shape")
    if not shape:
        raise DataError(f"{where} is a single value, but must be an array with one row per image")
    if fortran and len(shape) > 1:
        raise DataError(f"{where} is in Fortran order, but must be in C order: save np.ascontiguousarray({key})")
    if shape[0] > MAX_ROWS:
        raise DataError(f"{where} has {shape[0]} rows, more than the limit of {MAX_ROWS}: split it into several files")
    if archive.getinfo(f"{key}.npy").file_size != header_bytes + math.prod(shape) * dtype.itemsize:
        raise DataError(f"{where} is cut short: its header promises shape {shape}; copy or download it again")
    return NpyMember(archive, key, shape, dtype)


def _read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    if version not in _HEADERS:
        raise ValueError(f"version {version} of the .npy format is unknown")
    # NumPy checks the length of a header only after it has read the whole.
    (length,) = struct.unpack(_LENGTHS[version], _exactly(stream, struct.calcsize(_LENGTHS[version])))
    if length > _HEADER_BYTES:
        raise ValueError(f"its header has {length} bytes, more than the limit of {_HEADER_BYTES}")
    header = struct.pack(_LENGTHS[version], length) + _exactly(stream, length)
    return _HEADERS[version](BytesIO(header))


def _exactly(stream: IO[bytes], count: int) -> bytes:
    data = stream.read(count)
    if len(data) != count:
        raise EOFError("it is cut short")
    return data


@contextmanager
def _translate_faults(archive: zipfile.ZipFile, key: str) -> Iterator[None]:
    """Turn the errors of a damaged member into a DataError."""
    try:
        yield
    except _FAULTS as error:
        raise DataError(
            f"{key} in {archive.filename} cannot be read ({' '.join(str(error).split())}): copy or download it again"
        ) from None
