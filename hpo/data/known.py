"""Which images made a study or a model: digests by part, and how images at hand are found among them.

An image is known by two digests: of its stored bytes, and of its pixels at the stored size. A copy in another folder
has the first in common, a lossless copy in another file format the second; neither depends on the path, on the order of
the images or on the size at which they were packed.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from hpo.data.records import PARTS

if TYPE_CHECKING:
    from hpo.data.dataset import Dataset, Part


_BYTES = 16

_ROW = 1 + 2 * _BYTES

_TEST = PARTS.index("test")

_UNKNOWN = -1


@dataclass(frozen=True)
class KnownImages:
    """The images of a data set by part. `from_bytes(to_bytes(x)) == x`, whatever the order of the images was."""

    rows: npt.NDArray[np.uint8] = field(default_factory=lambda: np.zeros((0, _ROW), dtype=np.uint8))
    """(n, 33) uint8, sorted: the part (0 train, 1 val, 2 test), the digest of the stored bytes, that of the pixels."""

    @classmethod
    def of(cls, dataset: Dataset) -> KnownImages:
        """The images of a split data set. The test part is not opened: only its digests are taken."""
        packed = sorted(
            bytes([code]) + bytes.fromhex(stored) + bytes.fromhex(pixels)
            for code, name in enumerate(PARTS)
            for stored, pixels in dataset.digests(name)
        )
        return cls(np.frombuffer(b"".join(packed), dtype=np.uint8).reshape(-1, _ROW))

    def to_bytes(self) -> bytes:
        """The rows as .npy."""
        buffer = io.BytesIO()
        np.save(buffer, self.rows, allow_pickle=False)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> KnownImages:
        """What `to_bytes` gave; ValueError for anything else."""
        rows = np.load(io.BytesIO(content), allow_pickle=False)
        if rows.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] != _ROW or (rows[:, 0] > _TEST).any():
            raise ValueError(f"digests of images must be (n, {_ROW}) uint8, but are {rows.shape} {rows.dtype}")
        return cls(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def codes(self, part: Part) -> npt.NDArray[np.int8]:
        """(n,) int8: the part in which each image of `part` is known (0 train, 1 val, 2 test), -1 where it is not.

        An image that is known in several parts belongs to the first of them: one that was trained on tests nothing.
        """
        found = (
            min(self._parts.get(bytes.fromhex(digest), len(PARTS)) for digest in digests) for digests in part.digests
        )
        return np.array([code if code < len(PARTS) else _UNKNOWN for code in found], dtype=np.int8)

    def took_part(self, part: Part) -> npt.NDArray[np.bool_]:
        """(n,) bool: which images of `part` trained the model or chose it, as training or validation images."""
        codes = self.codes(part)
        return (codes >= 0) & (codes < _TEST)

    @cached_property
    def split_digest(self) -> str:
        """As the function of this name has it for the data set."""
        return digest_of(
            f"{PARTS[row[0]]} {row[1 : 1 + _BYTES].tobytes().hex()}" for row in self.rows[self.rows[:, 0] > 0]
        )

    @cached_property
    def test_digest(self) -> str:
        """`digest_of` the test images that did not take part; "" where there are none."""
        stored = [row[1 : 1 + _BYTES].tobytes() for row in self.rows[self.rows[:, 0] == _TEST]]
        pixels = [row[1 + _BYTES :].tobytes() for row in self.rows[self.rows[:, 0] == _TEST]]
        unseen = [
            one.hex()
            for one, two in zip(stored, pixels, strict=True)
            if self._parts[one] == _TEST and self._parts[two] == _TEST
        ]
        return digest_of(unseen) if unseen else ""

    @cached_property
    def _parts(self) -> dict[bytes, int]:
        """The first part in which each digest is known. Digests of bytes and of pixels never collide."""
        parts: dict[bytes, int] = {}
        for row in self.rows[::-1]:  # train last, so that it wins
            code, content = int(row[0]), row.tobytes()
            parts[content[1 : 1 + _BYTES]] = code
            parts[content[1 + _BYTES :]] = code
        return parts

    def __eq__(self, other: object) -> bool:
        return isinstance(other, KnownImages) and np.array_equal(self.rows, other.rows)

    __hash__ = None  # type: ignore[assignment]


def digest_of(lines: Iterable[str]) -> str:
    """32 hex digits of some lines of ASCII text, whatever their order."""
    return hashlib.blake2b("\n".join(sorted(lines)).encode(), digest_size=_BYTES).hexdigest()


def digest_of_part(part: Part) -> str:
    """What a part is known by: the digest of the stored bytes of its images."""
    return digest_of(stored for stored, _ in part.digests)


def split_digest(dataset: Dataset) -> str:
    """32 hex digits of which images validate and which test; the rest of the same data set trains."""
    return digest_of(f"{name} {stored}" for name in PARTS[1:] for stored, _ in dataset.digests(name))
