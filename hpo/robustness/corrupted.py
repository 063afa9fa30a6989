"""A corrupted copy of a part: every image once under each alteration, the same for everybody who measures on it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hpo.data import digests
from hpo.data.dataset import Images, Labels, Part
from hpo.robustness.alterations import ALTERATIONS, SEVERITIES, VERSION, alter
from hpo.robustness.stored import open_stored

Progress = Callable[[int, int], None]
"""Called with (images done, images in all)."""


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
    """(m,) int64 positions in ALTERATIONS."""
    severity: Labels
    """(m,) int64 from 1 to 5."""

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, size: int) -> Iterator[Images]:
        """Copies of the images in order, (b, S, S, 3) uint8, b = `size` but for the last."""
        for start in range(0, len(self), size):
            yield np.array(self.images[start : start + size])

    def by_condition(self, correct: npt.NDArray[np.bool_]) -> tuple[Condition, ...]:
        """What `correct` (m,) bool means for each alteration and severity, in this order; those without images miss."""
        return tuple(
            Condition(name, severity, int(rows.sum()), float(correct[rows].mean()))
            for number, name in enumerate(ALTERATIONS)
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
    shape = (len(ALTERATIONS) * count, size, size, 3)
    return CorruptedCopy(
        images=open_stored(cache / "corrupted", key[:16], shape, _told(rows, shape[0], progress)),
        labels=np.tile(part.labels, len(ALTERATIONS)),
        alteration=np.repeat(np.arange(len(ALTERATIONS)), count),
        severity=severities.ravel(),
    )


def _each(part: Part) -> Iterator[Images]:
    return (part.images[row] for row in part.indices)


def _severities(labels: Labels, seed: int) -> Labels:
    """(10, n) int64: images in random order within their class take turns, one severity on with each alteration."""
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    turn = np.empty(len(labels), np.int64)
    turn[shuffled[np.argsort(labels[shuffled], kind="stable")]] = np.arange(len(labels))
    return 1 + (turn + np.arange(len(ALTERATIONS))[:, None]) % len(SEVERITIES)


def _altered(part: Part, seen: list[str], severities: Labels, seed: int) -> Iterator[Images]:
    """The images of the copy in order; `seen` are the digests of the part's."""
    for name, steps in zip(ALTERATIONS, severities, strict=True):
        for image, digest, severity in zip(_each(part), seen, steps, strict=True):
            yield alter(image, name, int(severity), _draws(seed, name, digest))


def _draws(seed: int, name: str, digest: str) -> np.random.Generator:
    """The draws of one image under one alteration."""
    text = f"{seed}/{name}/{digest}"
    return np.random.default_rng(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big"))


def _told(rows: Iterator[Images], total: int, progress: Progress | None) -> Iterator[Images]:
    for done, row in enumerate(rows, start=1):
        yield row
        if progress:
            progress(done, total)
