"""A corrupted copy of a part: every image once under each corruption, stored once and the same for every model.

    <cache>/corrupted/<key>-<digest>.npy     (m, S, S, 3) uint8; the digest is that of the whole file

One process checks or makes a file while others wait. A file whose digest does not match its name is made anew.
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
from hpo.data.cache import lock_cache
from hpo.data.dataset import Images, Labels, Part, Progress
from hpo.evaluation.metrics import wilson
from hpo.files import rename_durably, write_new_file

_DIGEST_BYTES = 16


@dataclass(frozen=True)
class Condition:
    """The result of a classifier under one corruption at one severity."""

    corruption: str
    severity: int
    images: int
    correct: int

    @property
    def accuracy(self) -> float:
        """Share of the images that are classified correctly."""
        return self.correct / self.images

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval of the accuracy."""
        return wilson(self.correct, self.images)


@dataclass(frozen=True)
class CorruptedCopy:
    """m = 10 n images of a part of n. Row a n + i is image i under corruption number a."""

    images: Images
    """(m, S, S, 3) uint8 memory map, RGB, read-only."""
    labels: Labels
    """(m,) int64 class numbers."""
    corruption: Labels
    """(m,) int64 positions in CORRUPTIONS."""
    severity: Labels
    """(m,) int64 from 1 to 5."""

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, size: int, progress: Progress | None = None) -> Iterator[Images]:
        """Yield the images in order, as `Part.batches` does."""
        return Part(self.images, np.arange(len(self)), self.labels, ()).batches(size, progress)

    def by_condition(self, correct: npt.NDArray[np.bool_]) -> tuple[Condition, ...]:
        """Count `correct` (m,) bool for each corruption and severity, in this order, without those of no image."""
        return tuple(
            Condition(name, severity, int(rows.sum()), int(correct[rows].sum()))
            for number, name in enumerate(CORRUPTIONS)
            for severity in SEVERITIES
            if (rows := (self.corruption == number) & (self.severity == severity)).any()
        )


def corrupted_copy(part: Part, cache: Path, *, seed: int = 0, progress: Progress | None = None) -> CorruptedCopy:
    """Return the corrupted copy of `part`; its file below the folder `cache` is ten times as large as the part.

    Severities are balanced within each corruption and class, and each image meets each severity twice. The random
    draws for an image depend only on its pixels and `seed`. Raises OSError if the file cannot be written.
    """
    count, size = len(part), part.images.shape[1]
    pixel_digests = [digests.of_pixels(image) for image in _each(part)]
    key = digests.of_lines([str(VERSION), str(seed), str(size), *pixel_digests, *map(str, part.labels)])
    severities = _severities(part.labels, seed)
    rows = _corrupted(part, pixel_digests, severities, seed)
    shape = (len(CORRUPTIONS) * count, size, size, 3)
    return CorruptedCopy(
        images=open_stored(cache / "corrupted", key[:16], shape, _with_progress(rows, shape[0], progress)),
        labels=np.tile(part.labels, len(CORRUPTIONS)),
        corruption=np.repeat(np.arange(len(CORRUPTIONS)), count),
        severity=severities.ravel(),
    )


def _each(part: Part) -> Iterator[Images]:
    return (part.images[row] for row in part.indices)


def _severities(labels: Labels, seed: int) -> Labels:
    """Return (10, n) int64: images, in random order within their class, cycle through the severities.

    Each corruption shifts the cycle by one.
    """
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    turn = np.empty(len(labels), np.int64)
    turn[shuffled[np.argsort(labels[shuffled], kind="stable")]] = np.arange(len(labels))
    return 1 + (turn + np.arange(len(CORRUPTIONS))[:, None]) % len(SEVERITIES)


def _corrupted(part: Part, pixel_digests: list[str], severities: Labels, seed: int) -> Iterator[Images]:
    """Yield the images of the copy in order."""
    for name, steps in zip(CORRUPTIONS, severities, strict=True):
        for image, digest, severity in zip(_each(part), pixel_digests, steps, strict=True):
            yield corrupt(image, name, int(severity), _generator(seed, name, digest))


def _generator(seed: int, name: str, digest: str) -> np.random.Generator:
    """Return the generator for one image under one corruption."""
    text = f"{seed}/{name}/{digest}"
    return np.random.default_rng(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big"))


def _with_progress(rows: Iterator[Images], total: int, progress: Progress | None) -> Iterator[Images]:
    for done, row in enumerate(rows, start=1):
        yield row
        if progress:
            progress(done, total)


def open_stored(folder: Path, key: str, shape: tuple[int, ...], rows: Iterator[Images]) -> Images:
    """Return a read-only map (shape) uint8 of the file of `key`; without a whole one, make it from `rows` first.

    Raises OSError, for example if the disk is full, and leaves no partial file; DataError if the folder cannot be made.
    """
    with lock_cache(folder):
        return _mapped(_find_whole(folder, key) or _write_file(folder, key, shape, rows))


def _find_whole(folder: Path, key: str) -> Path | None:
    """Return the file of the key if its content still has the digest in its name."""
    return next((path for path in folder.glob(f"{key}-*.npy") if path.stem == f"{key}-{_digest(path)}"), None)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=_DIGEST_BYTES)).hexdigest()


def _write_file(folder: Path, key: str, shape: tuple[int, ...], rows: Iterator[Images]) -> Path:
    """Write a new file in place of any damaged one; the caller holds the lock."""
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
    # A plain view, because each row taken from np.memmap itself costs a Python call.
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
