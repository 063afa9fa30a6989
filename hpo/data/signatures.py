"""The signature of an image: size, form, exposure, sharpness and a small picture, the same at every packed size.

A pack holds one signature for each of its images in `signatures.npy`. All measurements are of the centre square of the
original, averaged to 64 x 64 pixels of luma and 32 x 32 of colour, so that images of different sizes can be compared,
and so that what is found from signatures does not depend on the size at which the images are packed.
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
from hpo.data.dataset import Images, Labels
from hpo.files import write_new_file_by

GREY, CMYK, PALETTE, ALPHA, SIXTEEN_BIT = 1, 2, 4, 8, 16
"""The bits of the field `mode`: how the file stores the image. A file in colours may still show grey."""

THUMB = 32
"""The side of the small picture, in pixels."""

MEASURED = 2 * THUMB
"""The side of the grey version of an image that is measured, in pixels."""

LARGEST = 8 * MEASURED
"""The largest side of a centre square that is averaged as it is, in pixels: a larger one is reduced to it first."""

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

_READ = 1024
"""Signatures that are read before their memory is given back; the system reads some more about each."""

_BLOCK = 4096
"""Signatures that are read at once: 30 MB."""


@dataclass(frozen=True, slots=True)
class UnmeasuredSignature:
    """The values from which a signature is measured, taken from an image that is about to be dropped."""

    width: int
    height: int
    mode: int
    orientation: int
    pages: int
    thumb: Images
    """(32, 32, 3) uint8, the centre square."""
    grey: Images
    """(64, 64) uint8, its luma."""


def small_pictures(square: Images) -> tuple[Images, Images]:
    """Return thumb (32, 32, 3) and grey (64, 64) of a centre square (S, S, 3) uint8: means of areas."""
    import cv2  # late: images are decoded without signatures too, as for a prediction

    grey = cv2.cvtColor(square, cv2.COLOR_RGB2GRAY)
    thumb, grey = (
        cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA if len(picture) > side else cv2.INTER_LINEAR)
        for picture, side in ((square, THUMB), (grey, MEASURED))
    )
    return np.asarray(thumb, dtype=np.uint8), np.asarray(grey, dtype=np.uint8)


def measure_signatures(taken: Sequence[UnmeasuredSignature]) -> Signatures:
    """Return the signatures (n,) of some images, measured together because each NumPy call has its price."""
    made = np.zeros(len(taken), dtype=SIGNATURE)
    if not taken:
        return made
    for name in ("width", "height", "mode", "orientation", "pages", "thumb", "grey"):
        made[name] = [getattr(one, name) for one in taken]
    grey, thumbs = made["grey"], made["thumb"]
    made["brightness"], made["contrast"] = _moments(grey)
    made["sharpness"] = _moments(_laplacian(grey))[1] ** 2
    made["dark"] = (grey < DARK).mean(axis=(1, 2))
    made["bright"] = (grey > BRIGHT).mean(axis=(1, 2))
    made["saturation"] = _saturation(thumbs).mean(axis=(1, 2))
    return made


def _moments(values: npt.NDArray[Any]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return mean and standard deviation (n,) of whole numbers (n, …)."""
    import cv2

    found = np.array([cv2.meanStdDev(one) for one in values])  # exact, and in one pass, unlike NumPy's
    return found[:, 0, 0, 0], found[:, 1, 0, 0]


def _saturation(thumbs: Images) -> Images:
    """Return the largest less the smallest channel of each pixel, (n, S, S) uint8."""
    red, green, blue = (thumbs[..., channel] for channel in range(3))  # NumPy's max over an axis of three is slow
    return np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)


def _laplacian(grey: Images) -> npt.NDArray[np.int16]:
    """Return the Laplacian (n, S-2, S-2) of luma (n, S, S)."""
    import cv2

    below_each_other = np.ascontiguousarray(grey).reshape(-1, grey.shape[2])
    found = cv2.Laplacian(below_each_other, cv2.CV_16S).reshape(grey.shape)
    return np.ascontiguousarray(found[:, 1:-1, 1:-1], dtype=np.int16)


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


class FieldRows:
    """Some rows of one field of the signatures, read from the disk when they are asked for."""

    def __init__(self, field: Images, rows: Labels) -> None:
        self._field = field
        self._rows = rows
        self._read = 0

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: Any, /) -> Images:
        chosen = self._rows[rows]
        found = np.empty((len(chosen), *self._field.shape[1:]), dtype=self._field.dtype)
        for begin in range(0, len(chosen), _READ):
            some = slice(begin, begin + _READ)
            found[some] = self._field[chosen[some]]
            self._read += len(chosen[some])
            if self._read >= _READ:
                forget_pages(self._field)
                self._read = 0
        return found
