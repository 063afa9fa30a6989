"""Images in a file that is whole or not there, and that proves it when it is opened.

    <folder>/<key>-<digest>.npy     (m, S, S, 3) uint8; the digest is that of the whole file

One process checks or makes a file while the others wait. A file whose digest does not agree is made anew.

A corrupted copy of a part: every image once under each alteration, the same for everybody who measures on it.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hpo.corruptions import CORRUPTIONS, SEVERITIES, VERSION, corrupt
from hpo.data import digests
from hpo.data.cache import exclusive
from hpo.data.dataset import Images, Labels, Part, Progress
from hpo.files import rename_durably, write_new_file

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
        write_new_file(temporary, _npy(shape, rows))
        path = temporary.with_name(f"{key}-{_digest(temporary)}.npy")
        rename_durably(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _npy(shape: tuple[int, ...], rows: Iterator[Images]) -> Iterator[bytes | memoryview]:
    """Yield the header of an .npy file, then its rows."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    yield header.getvalue()
    for row in rows:
        yield row.data


def _mapped(path: Path) -> Images:
    """A plain view: rows taken from np.memmap itself cost a Python call each."""
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))


@dataclass(frozen=True)
class Condition:
    """How a classifier fares under one alteration at one severity."""

    alteration: str
    severity: int
    images: int
    accuracy: float


@dataclass(frozen=True)
class CorruptedCopy:
    """m = 10 n images of a part of n. Row a n + i is image i under alteration number a."""

    images: Images
    """(m, S, S, 3) uint8 memory map, RGB, read-only."""
    labels: Labels
    """(m,) int64 class numbers."""
    alteration: Labels
    """(m,) int64 positions in CORRUPTIONS."""
    severity: Labels
    """(m,) int64 from 1 to 5."""

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, size: int, progress: Progress | None = None) -> Iterator[Images]:
        """Yield the images in order, as `Part.batches` does."""
        return Part(self.images, np.arange(len(self)), self.labels, ()).batches(size, progress)

    def by_condition(self, correct: npt.NDArray[np.bool_]) -> tuple[Condition, ...]:
        """What `correct` (m,) bool means for each alteration and severity, in this order; those without images miss."""
        return tuple(
            Condition(name, severity, int(rows.sum()), float(correct[rows].mean()))
            for number, name in enumerate(CORRUPTIONS)
            for severity in SEVERITIES
            if (rows := (self.alteration == number) & (self.severity == severity)).any()
        )


def corrupted_copy(part: Part, cache: Path, *, seed: int = 0, progress: Progress | None = None) -> CorruptedCopy:
    """The corrupted copy of `part`, made once into a file below the folder `cache`, ten times as large as the part.

    Severities are balanced within each alteration and class, and each image meets each severity twice. An image's
    draws depend on its pixels and `seed` alone. Raises OSError where the file cannot be written.
    """
    count, size = len(part), part.images.shape[1]
    seen = [digests.of_pixels(image) for image in _each(part)]
    key = digests.of_lines([str(VERSION), str(seed), str(size), *seen, *map(str, part.labels)])
    severities = _severities(part.labels, seed)
    rows = _altered(part, seen, severities, seed)
    shape = (len(CORRUPTIONS) * count, size, size, 3)
    return CorruptedCopy(
        images=open_stored(cache / "corrupted", key[:16], shape, _told(rows, shape[0], progress)),
        labels=np.tile(part.labels, len(CORRUPTIONS)),
        alteration=np.repeat(np.arange(len(CORRUPTIONS)), count),
        severity=severities.ravel(),
    )


def _each(part: Part) -> Iterator[Images]:
    return (part.images[row] for row in part.indices)


def _severities(labels: Labels, seed: int) -> Labels:
    """(10, n) int64: images in random order within their class take turns, one severity on with each alteration."""
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    turn = np.empty(len(labels), np.int64)
    turn[shuffled[np.argsort(labels[shuffled], kind="stable")]] = np.arange(len(labels))
    return 1 + (turn + np.arange(len(CORRUPTIONS))[:, None]) % len(SEVERITIES)


def _altered(part: Part, seen: list[str], severities: Labels, seed: int) -> Iterator[Images]:
    """The images of the copy in order; `seen` are the digests of the part's."""
    for name, steps in zip(CORRUPTIONS, severities, strict=True):
        for image, digest, severity in zip(_each(part), seen, steps, strict=True):
            yield corrupt(image, name, int(severity), _draws(seed, name, digest))


def _draws(seed: int, name: str, digest: str) -> np.random.Generator:
    """The draws of one image under one alteration."""
    text = f"{seed}/{name}/{digest}"
    return np.random.default_rng(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big"))


def _told(rows: Iterator[Images], total: int, progress: Progress | None) -> Iterator[Images]:
    for done, row in enumerate(rows, start=1):
        yield row
        if progress:
            progress(done, total)
