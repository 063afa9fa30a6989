"""EmbeddedServer: the PostgreSQL of the wheel under `<home>/postgres`, shared by all processes of one user.

Every process that uses it holds a shared lock of `<home>/postgres.users`, which the kernel releases however that
process ends; the process that leaves last stops the server. It is started and stopped under `<home>/postgres.lock`.
"""

from __future__ import annotations

import errno
import logging
import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL

from storage.cluster import PORT, USER, Cluster
from storage.errors import DatabaseUnavailableError
from storage.postgres_binaries import owner_name
from storage.synced_files import SharedHold, exclusive, is_held

_log = logging.getLogger(__name__)


class EmbeddedServer:
    """The use of the server under `home` by this process: from `join` to `leave` or the end of the process."""

    def __init__(self, home: Path, socket_folder: Path, hold: SharedHold, timeout: float) -> None:
        self._home = home
        self._socket_folder = socket_folder
        self._folder = _identity(_data(home))
        self._timeout = timeout
        self._finalizer = weakref.finalize(self, _leave, home, hold, timeout, os.getpid())

    @classmethod
    def join(cls, home: Path, *, timeout: float = 60.0) -> EmbeddedServer:
        """Start the server under `home` unless it runs. Any number of processes may call this at once.

        Raises DatabaseUnavailableError, and changes nothing, when the folder cannot be written, the server does not
        answer within `timeout` seconds, or another container or host that cannot be reached uses the folder.
        """
        home = home.expanduser().absolute()
        with _locked(home, timeout):
            shared = is_held(_users(home))
            hold = SharedHold(_users(home))
            try:
                return cls(home, _running(home, timeout, shared=shared), hold, timeout)
            except BaseException:
                hold.release()
                raise

    @staticmethod
    def exists(home: Path) -> bool:
        """Return whether a server was ever started under `home`."""
        return _data(home.expanduser().absolute()).exists()

    @property
    def url(self) -> URL:
        """URL of the server: a Unix socket that only its user may open. There is no password."""
        query = {"host": str(self._socket_folder), "port": str(PORT)}
        return URL.create("postgresql+psycopg2", username=USER, database="postgres", query=query)

    @property
    def home(self) -> Path:
        """Folder that holds the data of the server."""
        return self._home

    def restart(self) -> URL:
        """Start the server again if it was killed, and return its present URL.

        Raises DatabaseUnavailableError when its data are gone or were replaced: a server on other data would hide the
        loss.
        """
        data = _data(self._home)
        if not data.exists():
            raise DatabaseUnavailableError(
                f"{data} is gone, and the studies with it; start again with `hpo run` or `hpo init`"
            )
        if _identity(data) != self._folder:
            raise DatabaseUnavailableError(
                f"{data} is not the folder that this process began with: it was moved or replaced meanwhile; "
                "put it back, or start again"
            )
        with _locked(self._home, self._timeout):
            # This process holds the shared lock too, so it cannot tell whether others do.
            self._socket_folder = _running(self._home, self._timeout, shared=True)
        return self.url

    def check(self, session: Any) -> None:
        """Raise DatabaseUnavailableError unless `session` is connected to the server on this very folder.

        Its path may lead to another folder by now, and its socket to the server of the folder that this one was copied
        from.
        """
        with session.cursor() as cursor:
            cursor.execute("SELECT current_setting('data_directory'), current_setting('hpo.server', true)")
            Cluster(_data(self._home)).check_serves(*cursor.fetchone())

    def leave(self) -> None:
        """End the use of the server; the last process to leave stops it. A second call does nothing."""
        self._finalizer()


def stop_embedded(home: Path, *, timeout: float = 60.0) -> bool:
    """Stop the server under `home`, even if processes use it; return whether it was running."""
    home = home.expanduser().absolute()
    if not _data(home).exists():
        return False
    with _locked(home, timeout):
        return Cluster(_data(home)).stop(timeout)


def _data(home: Path) -> Path:
    return home / "postgres"


def _users(home: Path) -> Path:
    return home / "postgres.users"


def _identity(data: Path) -> tuple[int, int]:
    status = data.stat()
    return status.st_dev, status.st_ino


def _running(home: Path, timeout: float, *, shared: bool) -> Path:
    cluster = Cluster(_data(home))
    cluster.initialise()
    return cluster.start(timeout, shared=shared)


def _leave(home: Path, hold: SharedHold, timeout: float, owner: int) -> None:
    # A forked child only closes its copy of the lock file; a home that was deleted is not created again.
    if os.getpid() != owner or not home.exists():
        hold.release()
        return
    try:
        with _locked(home, timeout):
            hold.release()
            if not is_held(_users(home)):
                Cluster(_data(home)).stop(timeout)
    except DatabaseUnavailableError as error:
        hold.release()
        _log.warning("the embedded PostgreSQL was left running: %s", error)


@contextmanager
def _locked(home: Path, timeout: float) -> Iterator[None]:
    try:
        home.mkdir(parents=True, exist_ok=True)
        with exclusive(home / "postgres.lock", timeout=timeout):
            yield
    except OSError as error:
        raise DatabaseUnavailableError(
            f"{error.filename or home} cannot hold the embedded PostgreSQL: {error.strerror}; {_way_out(error, home)}, "
            "work in another folder, or give --storage a URL"
        ) from error


def _way_out(error: OSError, home: Path) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "make room there"
    if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
        return "mount that file system with locks"
    if error.errno in (errno.EACCES, errno.EPERM):
        place = next(path for path in (home, *home.parents) if os.access(path.parent, os.X_OK) and path.exists())
        return f"work as {owner_name(place.stat().st_uid)}, who owns {place}, or let that user give write permission"
    return "see to it that it can be written"
