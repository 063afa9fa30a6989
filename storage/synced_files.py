"""Files that survive a loss of power, and file locks between the processes of one host.

The kernel releases a lock when the last process that holds it ends, whatever ends it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from storage.errors import DatabaseUnavailableError

_POLL = 0.02  # seconds


def write_synced(path: Path, content: bytes) -> None:
    """Write a file so that it survives a loss of power."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` survive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Create a folder and the missing ones above it, each recorded in its parent; NotADirectoryError for a file."""
    if folder.is_dir():
        return
    if folder.exists():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


@contextmanager
def exclusive(path: Path, *, timeout: float) -> Iterator[None]:
    """Hold the exclusive lock of `path`; DatabaseUnavailableError when others hold it for over `timeout` seconds."""
    deadline = time.monotonic() + timeout
    with path.open("ab") as file:
        while not _try_exclusive(file.fileno()):
            if time.monotonic() > deadline:
                raise DatabaseUnavailableError(
                    f"{path} has been held by another process for {timeout:g} s; end that process, then try again"
                )
            time.sleep(_POLL)
        yield


class SharedHold:
    """A shared lock of `path`, held until the process ends or `release`. A context manager."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab")
        fcntl.flock(self._file, fcntl.LOCK_SH)

    def release(self) -> None:
        """Release the lock. A forked child that inherited it holds it until the child ends."""
        self._file.close()

    def __enter__(self) -> SharedHold:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def is_held(path: Path) -> bool:
    """Return whether any process holds a lock of `path`."""
    with path.open("ab") as file:
        return not _try_exclusive(file.fileno())


def _try_exclusive(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
