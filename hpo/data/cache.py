"""A cache folder of packs or features: one process makes one at a time, and a full disk is reported in one line.

Its large files are memory maps. What is read of one counts as memory of the process until it is forgotten.
"""

from __future__ import annotations

import mmap
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hpo.errors import DataError
from hpo.files import atomic_folder, exclusive_lock, write_file


@contextmanager
def lock_cache(cache: Path, holds: str = "packed images") -> Iterator[None]:
    """Hold the cache's lock against other processes and threads, waiting for it; remove what a killed process left.

    `holds` says in messages what the cache holds.
    """
    with ExitStack() as held:
        try:
            cache.mkdir(parents=True, exist_ok=True)
            held.enter_context(exclusive_lock(cache / ".lock"))
        except OSError as error:
            raise DataError(f"{cache} cannot hold the {holds} ({error.strerror}): give another cache folder") from None
        for left in cache.glob("*.tmp"):
            shutil.rmtree(left, ignore_errors=True)
        yield


@contextmanager
def atomic_cache_folder(target: Path, holds: str = "packed images") -> Iterator[Path]:
    """Yield a folder that becomes `target` when the block ends. Hold the lock. Raise DataError for a full disk."""
    try:
        with atomic_folder(target) as folder:
            yield folder
    except OSError as error:
        raise DataError(
            f"{holds} cannot be written to {target.parent} ({error.strerror}; "
            f"{_gigabytes(_free(target.parent))} free): free some space, or give another cache folder"
        ) from None


def refuse_too_little_space(cache: Path, needed: int, work: str = "packing") -> None:
    """Raise DataError unless `needed` bytes are free in the cache."""
    free = _free(cache)
    if needed > free:
        raise DataError(
            f"{work} needs {_gigabytes(needed)} in {cache}, but {_gigabytes(free)} are free: "
            "free some, give another cache folder, or take a smaller image size"
        )


def make_room(folder: Path, pattern: str, coming: int, most: int) -> None:
    """Remove the least recently used files of the `pattern` until `coming` bytes fit under `most`. Hold the lock.

    A process that has one of them open keeps it until it ends.
    """
    known = sorted((status.st_mtime, status.st_size, path) for path in folder.glob(pattern) for status in [path.stat()])
    total = coming + sum(size for _, size, _ in known)
    for _, size, path in known:
        if total <= most:
            return
        path.unlink(missing_ok=True)
        total -= size


def mark_used(path: Path) -> None:
    """Note that a file of a cache was used now, for `make_room`."""
    with suppress(OSError):  # It belongs to another user, or the file system is read-only.
        os.utime(path)


def _free(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e7 else f"{count / 1e6:.2f} MB"


def forget_pages(array: npt.NDArray[Any]) -> None:
    """Give back the memory that was taken by what was read of a read-only memory map; do nothing for other arrays.

    The values are read from the file again when they are next asked for, mostly from the system's own cache of it.
    """
    base: object = array
    while isinstance(base, np.ndarray):
        if base.flags.writeable:
            return
        base = base.base
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)


def remember_data(cache: Path, fingerprint: str, path: Path) -> None:
    """Store where the data with this fingerprint lie on this machine, for commands that are not given them.

    The path is in `data/<fingerprint>` in the cache, and never leaves it. Where nothing can be written it is not kept.
    """
    place, found = cache / "data" / fingerprint, str(path.resolve())
    with suppress(OSError, UnicodeError):
        if not place.is_file() or place.read_text(encoding="utf-8") != found:
            place.parent.mkdir(parents=True, exist_ok=True)
            write_file(place, found)


def remembered_data(cache: Path, fingerprint: str) -> Path | None:
    """Return the path that `remember_data` stored, if there is something; whether it is still the same is not known."""
    with suppress(OSError, UnicodeError):
        path = Path((cache / "data" / fingerprint).read_text(encoding="utf-8"))
        return path if path.exists() else None
    return None
