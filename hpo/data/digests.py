"""Digests: of stored bytes, pixels, files and data sets; and which images of a data set lie in which part.

An image is known by two digests: of its stored bytes, and of its pixels at the stored size. A copy in another folder
has the first in common, a lossless copy in another file format the second; neither depends on the path, on the order of
the images or on the size at which they were packed.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from hpo.data.dataset import Dataset, Images, Part
from hpo.data.records import PARTS, Payload

_BYTES = 16

_STRIP_PIXELS = 100_000

_ROW_BYTES = 1 + 2 * _BYTES

_TEST = PARTS.index("test")

_UNKNOWN = -1


def of_payload(payload: Payload) -> str:
    """Return 32 hex digits of a stored image: of its bytes, or of dtype, shape and values of an array."""
    if isinstance(payload, bytes):
        return hashlib.blake2b(payload, digest_size=_BYTES).hexdigest()
    state = hashlib.blake2b(f"{payload.dtype.str}{payload.shape}".encode(), digest_size=_BYTES)
    state.update(np.ascontiguousarray(payload).view(np.uint8).data)
    return state.hexdigest()


def of_image(image: Image.Image) -> str:
    """Return 32 hex digits of an RGB image: of its values, width and height."""
    state = hashlib.blake2b(digest_size=_BYTES)
    # In strips, so that the image is never copied as a whole.
    rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        state.update(image.crop((0, top, image.width, min(top + rows, image.height))).tobytes())
    state.update(f"{image.width}x{image.height}".encode())
    return state.hexdigest()


def of_rgb(pixels: Images) -> str:
    """Return `of_image` of the image with these pixels (H, W, 3) uint8."""
    state = hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=_BYTES)
    state.update(f"{pixels.shape[1]}x{pixels.shape[0]}".encode())
    return state.hexdigest()


def of_pixels(pixels: Images) -> str:
    """Return 32 hex digits of packed pixels (S, S, 3) uint8."""
    return hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=_BYTES).hexdigest()


def of_lines(lines: Iterable[str]) -> str:
    """Return 32 hex digits of some lines of text. File names that are not UTF-8 are allowed."""
    state = hashlib.blake2b(digest_size=_BYTES)
    for line in lines:
        state.update(line.encode(errors="surrogateescape") + b"\n")
    return state.hexdigest()


def stamp(status: os.stat_result) -> str:
    """Return size, times and inode, which tell a file from an earlier one of the same name."""
    # mtime can be set by hand and is kept by copies; ctime is set by the system alone.
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"


def of_file(path: Path) -> str:
    """Return 32 hex digits of a file by path and stamp, not by its content."""
    return of_lines([str(path.resolve()), stamp(path.stat())])


def fingerprint(images: Iterable[tuple[str, str, str]]) -> str:
    """Return 64 hex digits of (class name, given part or "", digest of the stored bytes), in any order."""
    state = hashlib.sha256()
    for line in sorted("\0".join(image) for image in images):
        state.update(line.encode(errors="surrogateescape") + b"\n")
    return state.hexdigest()


@dataclass(frozen=True)
class ImageDigests:
    """The digests of the images of a data set by part, in any order of the images. `from_bytes(to_bytes(x)) == x`."""

    rows: npt.NDArray[np.uint8] = field(default_factory=lambda: np.zeros((0, _ROW_BYTES), dtype=np.uint8))
    """(n, 33) uint8, sorted: the part (0 train, 1 val, 2 test), the digest of the stored bytes, that of the pixels."""

    @classmethod
    def of(cls, dataset: Dataset) -> ImageDigests:
        """Return the digests of a split data set. The test part is not opened."""
        packed = sorted(
            bytes([code]) + bytes.fromhex(stored) + bytes.fromhex(pixels)
            for code, name in enumerate(PARTS)
            for stored, pixels in dataset.digests(name)
        )
        return cls(np.frombuffer(b"".join(packed), dtype=np.uint8).reshape(-1, _ROW_BYTES))

    def with_train(self, digests: Iterable[tuple[str, str]]) -> ImageDigests:
        """Return these digests and those of further images that a model was made with, as training images."""
        train = bytes([PARTS.index("train")])
        added = {train + bytes.fromhex(stored) + bytes.fromhex(pixels) for stored, pixels in digests}
        packed = sorted({row.tobytes() for row in self.rows} | added)
        return ImageDigests(np.frombuffer(b"".join(packed), dtype=np.uint8).reshape(-1, _ROW_BYTES))

    def to_bytes(self) -> bytes:
        """Return the rows as the bytes of an .npy file."""
        buffer = io.BytesIO()
        np.save(buffer, self.rows, allow_pickle=False)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> ImageDigests:
        """Read the result of `to_bytes`. Raise ValueError for anything else."""
        rows = np.load(io.BytesIO(content), allow_pickle=False)
        if rows.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] != _ROW_BYTES or (rows[:, 0] > _TEST).any():
            raise ValueError(f"digests of images must be (n, {_ROW_BYTES}) uint8, but are {rows.shape} {rows.dtype}")
        return cls(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def codes(self, part: Part) -> npt.NDArray[np.int8]:
        """Return (n,) int8: the part that holds each image of `part` (0 train, 1 val, 2 test), -1 where none does.

        An image that several parts hold counts for the first of them, since a training image cannot test.
        """
        found = (
            min(self._parts.get(bytes.fromhex(digest), len(PARTS)) for digest in digests) for digests in part.digests
        )
        return np.array([code if code < len(PARTS) else _UNKNOWN for code in found], dtype=np.int8)

    def took_part(self, part: Part) -> npt.NDArray[np.bool_]:
        """Return (n,) bool: which images of `part` trained or selected the model, as training or validation images."""
        codes = self.codes(part)
        return (codes >= 0) & (codes < _TEST)

    @cached_property
    def split_digest(self) -> str:
        """The same digest as the function `split_digest` gives for the data set."""
        return _digest_of_lines(
            f"{PARTS[row[0]]} {row[1 : 1 + _BYTES].tobytes().hex()}" for row in self.rows[self.rows[:, 0] > 0]
        )

    @cached_property
    def test_digest(self) -> str:
        """The digest of the test images that are in no other part; "" if there are none."""
        stored = [row[1 : 1 + _BYTES].tobytes() for row in self.rows[self.rows[:, 0] == _TEST]]
        pixels = [row[1 + _BYTES :].tobytes() for row in self.rows[self.rows[:, 0] == _TEST]]
        unseen = [
            one.hex()
            for one, two in zip(stored, pixels, strict=True)
            if self._parts[one] == _TEST and self._parts[two] == _TEST
        ]
        return _digest_of_lines(unseen) if unseen else ""

    @cached_property
    def _parts(self) -> dict[bytes, int]:
        """The first part that holds each digest. Digests of bytes and of pixels never collide."""
        parts: dict[bytes, int] = {}
        for row in self.rows[::-1]:  # train last, so that it wins
            code, content = int(row[0]), row.tobytes()
            parts[content[1 : 1 + _BYTES]] = code
            parts[content[1 + _BYTES :]] = code
        return parts

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ImageDigests) and np.array_equal(self.rows, other.rows)

    __hash__ = None  # type: ignore[assignment]


def _digest_of_lines(lines: Iterable[str]) -> str:
    """Return 32 hex digits of some lines of ASCII text, in any order."""
    return hashlib.blake2b("\n".join(sorted(lines)).encode(), digest_size=_BYTES).hexdigest()


def digest_of_part(part: Part) -> str:
    """Return the digest that identifies a part: of the stored bytes of its images."""
    return _digest_of_lines(stored for stored, _ in part.digests)


def split_digest(dataset: Dataset) -> str:
    """Return 32 hex digits of which images validate and which test; the rest of the same data set trains."""
    return _digest_of_lines(f"{name} {stored}" for name in PARTS[1:] for stored, _ in dataset.digests(name))


def folds_digest(dataset: Dataset) -> str | None:
    """Return 32 hex digits of which images validate in which fold; None without folds."""
    if not dataset.folds:
        return None
    return _digest_of_lines(f"{fold} {stored}" for fold, part in enumerate(dataset.folds) for stored, _ in part.digests)
