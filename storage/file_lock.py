"""Locks between the processes of one host. The kernel drops them when their holder dies, however it dies."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from storage.errors import DatabaseUnavailableError

_POLL = 0.02  # seconds


@contextmanager
def exclusive(path: Path, *, timeout: float) -> Iterator[None]:
    """Hold `path` alone; raise DatabaseUnavailableError when others keep it for more than `timeout` seconds."""
    deadline = time.monotonic() + timeout
    with path.open("ab") as file:
        while not _locked(file.fileno(), fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                raise DatabaseUnavailableError(
                    f"{path} has been held by another process for {timeout:g} s; end that process, then try again"
                )
            time.sleep(_POLL)
        yield


class SharedHold:
    """One process's share in `path`, for as long as it lives or until `release`."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab")
        fcntl.flock(self._file, fcntl.LOCK_SH)

    def release(self) -> None:
        """Give the share back. A forked child that inherited it still counts until it ends."""
        self._file.close()

    def __enter__(self) -> SharedHold:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def is_held(path: Path) -> bool:
    """Whether any process holds a share in `path`."""
    with path.open("ab") as file:
        return not _locked(file.fileno(), fcntl.LOCK_EX)


def _locked(descriptor: int, operation: int) -> bool:
    try:
        fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
