"""A folder of packs: one maker at a time, whole packs or none, and a full disk said in one line."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hpo.errors import DataError
from hpo.files import sync_folder


@contextmanager
def exclusive(cache: Path) -> Iterator[None]:
    """Hold the cache's lock against other processes and threads, waiting for it; what a killed maker left is removed.

    The kernel drops the lock of a process that dies, so nobody waits for the dead.
    """
    try:
        cache.mkdir(parents=True, exist_ok=True)
        lock = os.open(cache / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise DataError(
            f"{cache} cannot hold the packed images ({error.strerror}): give another cache folder"
        ) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for left in cache.glob("*.tmp"):
            shutil.rmtree(left, ignore_errors=True)
        yield
    finally:
        os.close(lock)


def place(target: Path, fill: Callable[[Path], None]) -> None:
    """Make the folder `target` whole or not at all: `fill` writes it under a temporary name. Hold the lock."""
    temporary = target.with_name(target.name + ".tmp")
    try:
        temporary.mkdir()
        fill(temporary)
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)
        sync_folder(target.parent)
    except OSError as error:
        raise DataError(
            f"packed images cannot be written to {target.parent} ({error.strerror}; "
            f"{_gigabytes(_free(target.parent))} free): free some space, or give another cache folder"
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def refuse_too_little_space(cache: Path, needed: int) -> None:
    """DataError unless `needed` bytes are free in the cache."""
    free = _free(cache)
    if needed > free:
        raise DataError(
            f"packing needs {_gigabytes(needed)} in {cache}, but {_gigabytes(free)} are free: "
            "free some, give another cache folder, or take a smaller image size"
        )


def write_synced(path: Path, chunks: Iterator[bytes | memoryview]) -> None:
    """Write and fsync a new file. Plain writes, because a full disk under a writable memory map kills the process."""
    with path.open("xb") as stream:
        for chunk in chunks:
            stream.write(chunk)
        stream.flush()
        os.fsync(stream.fileno())


def _free(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e7 else f"{count / 1e6:.2f} MB"
