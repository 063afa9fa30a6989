"""The feature store: the features of a frozen backbone for the images of a data set, computed once and kept on disk.

    <folder>/<backbone>-<S>px-<key>/features.f16    (M, F) float16, raw, a memory map that all processes share
    <folder>/<backbone>-<S>px-<key>/images.digests  (M, 16) bytes: the digest of the stored image of each row
    <folder>/<backbone>-<S>px-<key>/manifest.json   what the key is made of, M and F

The key is made of the backbone with its weights and normalisation, the image size, the fingerprint of the data set, and
the preprocessing that a part applies to its images (`Part.prepare`, such as the background mask). Rows are found by the
digest of the stored image, so any part of the data set can be looked up, in any order, and an image that lies there
twice is computed once. The least recently used entries are removed when all together are larger than the limit; a
process that has one of them open keeps it until it ends.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hpo.data import digests
from hpo.data.cache import atomic_cache_folder, forget_pages, lock_cache, refuse_too_little_space
from hpo.data.dataset import Labels, Part, Progress, Rows, rows_in_order
from hpo.device import side_by_side
from hpo.files import write_new_file
from hpo.interruption import ShouldStop, never, until_stopped
from hpo.models.frozen_backbone import Features, FrozenBackbone

VERSION = 1
"""The version of entries. It goes up when these files or the way features are computed change."""

MOST_BYTES = 8 << 30
"""The most bytes that all entries of a store take, unless another limit is given."""

BATCH = 64
"""Images that go through the backbone at a time."""

HOLDS = "features of images"

Digests = npt.NDArray[np.bytes_]
"""(M,) of 16 bytes each."""


@dataclass(frozen=True)
class ImageFeatures:
    """The features of a part: row i of the part is `stored[rows[i]]`."""

    stored: Features
    """(M, F) float16, a read-only view of the file."""
    rows: Labels
    """(n,) int64 rows of `stored`."""
    origin: str
    """The backbone and the source of its weights, in words."""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def width(self) -> int:
        """F, the length of the features of an image."""
        return int(self.stored.shape[1])

    def batch(self, rows: Rows) -> npt.NDArray[np.float32]:
        """Return a copy of the rows (b,) of the part as (b, F) float32."""
        return self.stored[self.rows[rows]].astype(np.float32)

    def batches(self, size: int = 4096) -> Iterator[tuple[Rows, npt.NDArray[np.float32]]]:
        """Yield positions (b,) and their features (b, F) float32, in order, b = `size` except in the last batch."""
        for rows in rows_in_order(len(self), size):
            yield rows, self.batch(rows)


class FeatureStore:
    """Features on disk below one folder. Several processes may use it; one of them computes at a time."""

    def __init__(self, folder: str | os.PathLike[str], *, most_bytes: int = MOST_BYTES) -> None:
        """Use `folder`, which is made when something is stored; all entries together take at most `most_bytes`.

        An entry that alone is larger than that is kept, and no other one beside it.
        """
        self._folder = Path(folder)
        self._most = most_bytes

    def features(
        self,
        part: Part,
        backbone: FrozenBackbone,
        *,
        fingerprint: str,
        white_level: int | None = None,
        progress: Progress | None = None,
        should_stop: ShouldStop = never,
    ) -> ImageFeatures:
        """Return the features of a part of the data set with `fingerprint`; compute and store those that are missing.

        `white_level` is that of the data set, for images of 16 bits. `progress` counts the images that had to be
        computed. Raises DataError where the folder cannot be used or the disk is full, ModelError as
        `FrozenBackbone.features` does, and TrainingInterrupted when stopped; nothing half-made is left then, nor
        after Ctrl-C.
        """
        wanted = _digests(part)
        identity = {**backbone.identity, "version": VERSION, "fingerprint": fingerprint, "white_level": white_level}
        if part.prepare is not None:  # the digests below are those of the images before it
            identity["prepared"] = part.prepare.identity
        folder = self._folder / _entry_name(backbone, identity)
        entry = _read(folder, identity)
        if entry is None or not entry.has(wanted):
            with lock_cache(self._folder, HOLDS):
                entry = _read(folder, identity)
                if entry is None or not entry.has(wanted):
                    making = _Making(part, backbone, identity, progress, should_stop)
                    self._make(folder, making, wanted, entry)
                    entry = _read(folder, identity)
        if entry is None:
            raise RuntimeError(f"the features in {folder} cannot be read right after they were written")
        _mark_used(folder)
        return ImageFeatures(entry.features, entry.rows_of(wanted), f"{backbone.name} ({backbone.origin})")

    def _make(self, folder: Path, making: _Making, wanted: Digests, before: _Entry | None) -> None:
        """Write the entry anew, with the rows that it had and those of `wanted` that are missing."""
        missing = _first_rows(wanted, before)
        had = len(before.digests) if before else 0
        total = had + len(missing)
        size = total * (2 * making.backbone.width + wanted.itemsize)
        self._evict(size, spared=folder)
        refuse_too_little_space(self._folder, size, "storing features")
        with atomic_cache_folder(folder, HOLDS) as new:
            with closing(making.features(missing)) as computed:
                write_new_file(new / "features.f16", _chained(before, computed))
            known = [before.digests] if before else []
            write_new_file(new / "images.digests", [np.concatenate([*known, wanted[missing]]).tobytes()])
            manifest = {**making.identity, "images": total, "width": making.backbone.width}
            write_new_file(new / "manifest.json", [json.dumps(manifest).encode()])

    def _evict(self, coming: int, spared: Path) -> None:
        """Remove the least recently used entries until `coming` bytes fit under the limit. Hold the lock."""
        entries = sorted(
            (used, size, entry)
            for entry in self._folder.iterdir()
            if entry != spared and (found := _used_and_size(entry)) is not None
            for used, size in [found]
        )
        total = coming + sum(size for _, size, _ in entries)
        for _, size, entry in entries:
            if total <= self._most:
                return
            shutil.rmtree(entry, ignore_errors=True)
            total -= size


@dataclass(frozen=True)
class _Entry:
    """Features and digests from one folder of the store."""

    features: Features
    digests: Digests

    def rows_of(self, wanted: Digests) -> Labels:
        """Return the row of each digest, all of which are there."""
        order = np.argsort(self.digests)
        return order[np.searchsorted(self.digests, wanted, sorter=order)].astype(np.int64)

    def has(self, wanted: Digests) -> bool:
        """Return whether all of the digests are there."""
        return bool(np.isin(wanted, self.digests).all())


@dataclass(frozen=True)
class _Making:
    """The features of one part under computation."""

    part: Part
    backbone: FrozenBackbone
    identity: dict[str, Any]
    progress: Progress | None
    should_stop: ShouldStop

    def features(self, rows: Rows) -> Generator[memoryview, None, None]:
        """Yield the bytes of the features of the rows (m,) of the part, in order."""
        batches: Sequence[Rows] = np.split(rows, range(BATCH, len(rows), BATCH)) if len(rows) else []
        done = 0
        with closing(self._computed(until_stopped(batches, self.should_stop))) as computed:
            for features in computed:
                yield features.data.cast("B")
                forget_pages(self.part.images)
                done += len(features)
                if self.progress:
                    self.progress(done, len(rows))

    def _computed(self, batches: Iterable[Rows]) -> Generator[Features, None, None]:
        """Yield the features of batches, on a CPU of several at once."""

        def compute(batch: Rows) -> Features:
            return self.backbone.features(self.part.batch(batch))

        if self.backbone.on_cpu:
            yield from side_by_side(compute, batches)
        else:
            yield from map(compute, batches)


def _digests(part: Part) -> Digests:
    """Return the digest of the stored image of each row of a part, as (n,) of 16 bytes."""
    if not len(part.digests):
        stored = [digests.of_pixels(part.images[row]) for row in part.indices]
    else:
        stored = [image for image, _ in part.digests]
    return np.frombuffer(bytes.fromhex("".join(stored)), dtype="V16").view("S16")


def _first_rows(wanted: Digests, before: _Entry | None) -> Rows:
    """Return the first row of each digest that the entry lacks, in order."""
    _, first = np.unique(wanted, return_index=True)
    rows = np.sort(first)
    return rows if before is None else rows[~np.isin(wanted[rows], before.digests)]


def _chained(before: _Entry | None, computed: Iterator[memoryview]) -> Iterator[memoryview]:
    """Yield the bytes of the features that are there, then those of the new ones."""
    if before is not None:
        for start in range(0, len(before.features), 4096):
            yield np.ascontiguousarray(before.features[start : start + 4096]).data.cast("B")
    yield from computed


def _entry_name(backbone: FrozenBackbone, identity: Mapping[str, Any]) -> str:
    key = digests.of_lines([json.dumps(identity, sort_keys=True)])
    readable = re.sub(r"[^A-Za-z0-9_.-]+", "-", backbone.name)[:40]
    return f"{readable}-{backbone.image_size}px-{key[:16]}"


def _read(folder: Path, identity: Mapping[str, Any]) -> _Entry | None:
    """Return the entry in a folder, or None if there is no whole one of this identity."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        count, width = int(manifest.pop("images")), int(manifest.pop("width"))
        if manifest != identity or (folder / "features.f16").stat().st_size != 2 * count * width:
            return None
        known = np.frombuffer((folder / "images.digests").read_bytes(), dtype="S16")
        if len(known) != count:
            return None
        features = np.memmap(folder / "features.f16", np.float16, mode="r", shape=(count, width))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    # A plain view: rows taken from np.memmap itself cost a Python call each.
    return _Entry(np.asarray(features), known)


def _mark_used(folder: Path) -> None:
    # Another user's store can be read, but its times cannot be set.
    with suppress(OSError):
        os.utime(folder / "manifest.json")


def _used_and_size(entry: Path) -> tuple[float, int] | None:
    """Return when an entry was last used and its bytes; None for anything else in the folder."""
    try:
        used = (entry / "manifest.json").stat().st_mtime
        return used, sum(file.stat().st_size for file in entry.iterdir())
    except OSError:
        return None
