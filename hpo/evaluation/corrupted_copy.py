"""A corrupted copy of a part: every image once under each kind of a family, stored once and the same for every model.

    <cache>/corrupted/<key>-<digest>.npy     (m, S, S, 3) uint8; the digest is that of the whole file

One process checks or makes a file while others wait. A file whose digest does not match its name is made anew. The
least recently used files are removed when all of a folder together are larger than MOST_BYTES.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hpo.corruption_family import SEVERITIES, CorruptionFamily
from hpo.corruptions import SEEN
from hpo.data import digests
from hpo.data.cache import lock_cache, make_room, mark_used
from hpo.data.dataset import Images, Labels, Part, Progress
from hpo.evaluation.metrics import wilson
from hpo.files import rename_durably, write_new_file

MOST_BYTES = 8 << 30
"""The most bytes that the files of one folder take, as in the feature store; a single file may be larger."""

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
    """m = k n images of a part of n under k kinds of corruption. Row a n + i is image i under kind number a."""

    images: Images
    """(m, S, S, 3) uint8 memory map, RGB, read-only."""
    labels: Labels
    """(m,) int64 class numbers."""
    corruption: Labels
    """(m,) int64 positions in `kinds`."""
    severity: Labels
    """(m,) int64 from 1 to 5."""
    kinds: tuple[str, ...] = SEEN.kinds
    """The names of the corruptions."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def originals(self) -> Labels:
        """(m,) int64: which image of the part each image shows."""
        return np.arange(len(self)) % (len(self) // len(self.kinds))

    def batches(self, size: int, progress: Progress | None = None) -> Iterator[Images]:
        """Yield the images in order, as `Part.batches` does."""
        return Part(self.images, np.arange(len(self)), self.labels, ()).batches(size, progress)

    def by_condition(self, correct: npt.NDArray[np.bool_]) -> tuple[Condition, ...]:
        """Count `correct` (m,) bool for each corruption and severity, in this order, without those of no image."""
        return tuple(
            Condition(name, severity, int(rows.sum()), int(correct[rows].sum()))
            for number, name in enumerate(self.kinds)
            for severity in SEVERITIES
            if (rows := (self.corruption == number) & (self.severity == severity)).any()
        )


def corrupted_copy(
    part: Part, cache: Path, *, family: CorruptionFamily = SEEN, seed: int = 0, progress: Progress | None = None
) -> CorruptedCopy:
    """Return the corrupted copy of `part`; its file below the folder `cache` has the part once for each kind.

    Severities are balanced within each kind and class, and each image meets each severity equally often. The random
    draws for an image depend only on its pixels and `seed`. Raises OSError if the file cannot be written.
    """
    count, size, kinds = len(part), part.images.shape[1], len(family.kinds)
    pixel_digests = [digests.of_pixels(image) for image in _each(part)]
    about = [_version(family), str(seed), str(size)]
    key = digests.of_lines([*about, *pixel_digests, *map(str, part.labels)])
    severities = _severities(part.labels, seed, kinds)
    rows = _corrupted(part, family, pixel_digests, severities, seed)
    shape = (kinds * count, size, size, 3)
    return CorruptedCopy(
        images=open_stored(cache / "corrupted", key[:16], shape, _with_progress(rows, shape[0], progress)),
        labels=np.tile(part.labels, kinds),
        corruption=np.repeat(np.arange(kinds), count),
        severity=severities.ravel(),
        kinds=family.kinds,
    )


def _version(family: CorruptionFamily) -> str:
    """Return the text that tells the files of families and their versions apart."""
    # The files of the first family have had their version alone since there was no other.
    return str(family.version) if family is SEEN else f"{family.name} {family.version}"


def _each(part: Part) -> Iterator[Images]:
    return (part.images[row] for row in part.indices)


def _severities(labels: Labels, seed: int, kinds: int) -> Labels:
    """Return (kinds, n) int64: images, in random order within their class, cycle through the severities.

    Each kind shifts the cycle by one.
    """
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    turn = np.empty(len(labels), np.int64)
    turn[shuffled[np.argsort(labels[shuffled], kind="stable")]] = np.arange(len(labels))
    return 1 + (turn + np.arange(kinds)[:, None]) % len(SEVERITIES)


def _corrupted(
    part: Part, family: CorruptionFamily, pixel_digests: list[str], severities: Labels, seed: int
) -> Iterator[Images]:
    """Yield the images of the copy in order."""
    for kind, steps in zip(family.kinds, severities, strict=True):
        for image, digest, severity in zip(_each(part), pixel_digests, steps, strict=True):
            yield family.corrupt(image, kind, int(severity), _generator(seed, kind, digest))


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
    found = next((path for path in folder.glob(f"{key}-*.npy") if path.stem == f"{key}-{_digest(path)}"), None)
    if found is not None:
        mark_used(found)
    return found


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=_DIGEST_BYTES)).hexdigest()


def _write_file(folder: Path, key: str, shape: tuple[int, ...], rows: Iterator[Images]) -> Path:
    """Write a new file in place of any damaged one; the caller holds the lock."""
    for left in (*folder.glob("*.tmp"), *folder.glob(f"{key}-*.npy")):
        left.unlink()
    make_room(folder, "*.npy", math.prod(shape), MOST_BYTES)
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
