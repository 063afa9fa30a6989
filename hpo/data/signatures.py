"""The signature of an image: size, form, exposure, sharpness and a small picture, the same at every packed size.

A pack holds one signature for each of its images in `signatures.npy`. All measurements are of the centre square of the
original, averaged to 64 x 64 pixels, so that images of different sizes can be compared, and so that what is found from
signatures does not depend on the size at which the images are packed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from hpo.data.cache import forget_pages
from hpo.data.dataset import Images
from hpo.files import write_new_file_by

GREY, CMYK, PALETTE, ALPHA, SIXTEEN_BIT = 1, 2, 4, 8, 16
"""The bits of the field `mode`: how the file stores the image. A file in colours may still show grey."""

THUMB = 32
"""The side of the small picture, in pixels."""

MEASURED = 2 * THUMB
"""The side of the version of an image that is measured, in pixels."""

DARK, BRIGHT = 16, 239
"""A pixel counts as dark if its luma is below the first, as bright if it is above the second."""

SIGNATURE: np.dtype[Any] = np.dtype(
    [
        ("width", "<u4"),  # of the stored image in pixels, upright
        ("height", "<u4"),
        ("mode", "u1"),  # GREY | CMYK | PALETTE | ALPHA | SIXTEEN_BIT
        ("orientation", "u1"),  # EXIF orientation 1 to 8; 1 is upright
        ("pages", "<u2"),  # pages or frames of the file, 65535 for more
        ("brightness", "<f4"),  # mean luma, 0 to 255
        ("contrast", "<f4"),  # standard deviation of the luma, 0 to 127.5
        ("sharpness", "<f4"),  # variance of the Laplacian of the luma
        ("dark", "<f4"),  # share of dark pixels, 0 to 1
        ("bright", "<f4"),  # share of bright pixels, 0 to 1
        ("saturation", "<f4"),  # mean of the largest less the smallest channel, 0 to 255
        ("thumb", "u1", (THUMB, THUMB, 3)),  # the centre square, RGB
        ("grey", "u1", (MEASURED, MEASURED)),  # the luma of the centre square
    ]
)
"""One row of `signatures.npy`."""

Signatures = npt.NDArray[np.void]
"""(n,) of SIGNATURE."""

_BLOCK = 4096
"""Signatures that are read at once: 30 MB."""

_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
"""ITU-R BT.601."""


@dataclass(frozen=True, slots=True)
class UnmeasuredSignature:
    """The values from which a signature is measured, taken from an image that is about to be dropped."""

    width: int
    height: int
    mode: int
    orientation: int
    pages: int
    square: Images
    """(64, 64, 3) uint8, the centre square."""


def measure_signatures(taken: Sequence[UnmeasuredSignature]) -> Signatures:
    """Return the signatures (n,) of some images, measured together because each NumPy call has its price."""
    made = np.zeros(len(taken), dtype=SIGNATURE)
    if not taken:
        return made
    for name in ("width", "height", "mode", "orientation", "pages"):
        made[name] = [getattr(one, name) for one in taken]
    squares = np.stack([one.square for one in taken])
    luma = squares @ _LUMA
    made["brightness"] = luma.mean(axis=(1, 2))
    made["contrast"] = luma.std(axis=(1, 2))
    made["sharpness"] = _laplacian(luma).var(axis=(1, 2))
    made["dark"] = (luma < DARK).mean(axis=(1, 2))
    made["bright"] = (luma > BRIGHT).mean(axis=(1, 2))
    made["saturation"] = _saturation(squares).mean(axis=(1, 2))
    made["thumb"] = _halve(squares)
    made["grey"] = np.rint(luma)
    return made


def _saturation(squares: Images) -> Images:
    """Return the largest less the smallest channel of each pixel, (n, S, S) uint8."""
    red, green, blue = (squares[..., channel] for channel in range(3))  # NumPy's max over an axis of three is slow
    return np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)


def _laplacian(luma: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the Laplacian (n, S-2, S-2) of luma (n, S, S)."""
    centre = luma[:, 1:-1, 1:-1]
    return luma[:, :-2, 1:-1] + luma[:, 2:, 1:-1] + luma[:, 1:-1, :-2] + luma[:, 1:-1, 2:] - 4 * centre


def _halve(squares: Images) -> Images:
    """Return the means of 2 x 2 pixels, rounded: (n, S, S, 3) uint8 -> (n, S/2, S/2, 3) uint8."""
    rows = squares[:, ::2].astype(np.uint16) + squares[:, 1::2]
    return ((rows[:, :, ::2] + rows[:, :, 1::2] + 2) >> 2).astype(np.uint8)


class SignatureFile:
    """A file `signatures.npy` that is being written, row by row."""

    def __init__(self, file: BinaryIO, most: int) -> None:
        """Begin a file of at most `most` rows."""
        self._file = file
        self._rows = 0
        self._write_header(most)
        self._begin = file.tell()

    def add(self, row: np.void) -> None:
        """Append one signature."""
        self._file.write(row.tobytes())
        self._rows += 1

    def finish(self) -> None:
        """Write the number of rows into the header."""
        self._file.seek(0)
        self._write_header(self._rows)
        if self._file.tell() != self._begin:
            raise RuntimeError("the header of an .npy file changed its length with the number of rows")
        self._file.seek(0, 2)

    def _write_header(self, rows: int) -> None:
        # NumPy leaves room in the header for any number of rows.
        description = {
            "descr": np.lib.format.dtype_to_descr(SIGNATURE),
            "fortran_order": False,
            "shape": (rows,),
        }
        np.lib.format.write_array_header_1_0(self._file, description)


@contextmanager
def signature_file(path: Path, most: int) -> Iterator[SignatureFile]:
    """Yield a new file for at most `most` signatures, which is whole and on the disk when the block ends."""
    with write_new_file_by(path) as file:
        signatures = SignatureFile(file, most)
        yield signatures
        signatures.finish()


def without_pictures(signatures: Signatures) -> Signatures:
    """Return a copy (n,) of all fields but the two pictures, which take 99 % of a signature."""
    names = [name for name in SIGNATURE.names or () if name not in ("thumb", "grey")]
    found = np.empty(len(signatures), dtype=[(name, SIGNATURE[name]) for name in names])
    for begin in range(0, len(signatures), _BLOCK):
        some = slice(begin, begin + _BLOCK)
        for name in names:
            found[name][some] = signatures[name][some]
        forget_pages(signatures)
    return found


def open_signatures(path: Path, rows: int) -> Signatures:
    """Return a read-only memory map (rows,) of SIGNATURE. Raise OSError or ValueError if the file is no such array."""
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except EOFError as error:
        raise ValueError(f"{path} is empty") from error
    if found.dtype != SIGNATURE or found.shape != (rows,):
        raise ValueError(f"{path} has {found.shape} rows of {found.dtype}, but must have ({rows},) of {SIGNATURE}")
    return np.asarray(found)
