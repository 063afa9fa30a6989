"""Locks between the processes of one host. The kernel drops them when their holder dies, however it dies.

EmbeddedServer: the PostgreSQL of the wheel under `<home>/postgres`, shared by all processes of one user.

Every process that uses it holds a share in `<home>/postgres.users`, which the kernel takes back however that process
ends; the one that leaves last stops the server. Starting and stopping happen under `<home>/postgres.lock`.
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
    """This process's share in the server under `home`. Made by `join`; given back by `leave`, or at exit."""

    def __init__(self, home: Path, socket_folder: Path, hold: SharedHold, timeout: float) -> None:
        self._home = home
        self._socket_folder = socket_folder
        self._folder = _identity(_data(home))
        self._timeout = timeout
        self._finalizer = weakref.finalize(self, _leave, home, hold, timeout, os.getpid())

    @classmethod
    def join(cls, home: Path, *, timeout: float = 60.0) -> EmbeddedServer:
        """Start the server under `home`, or find it running. Any number of processes may call this at once.

        Raises DatabaseUnavailableError when the folder cannot be written, the server does not answer within `timeout`
        seconds, or the folder is in use where it cannot be reached from here; then nothing has been changed.
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
        """Whether a server was ever started under `home`."""
        return _data(home.expanduser().absolute()).exists()

    @property
    def url(self) -> URL:
        """Where the server listens: a Unix socket that only its user may open. There is no password."""
        query = {"host": str(self._socket_folder), "port": str(PORT)}
        return URL.create("postgresql+psycopg2", username=USER, database="postgres", query=query)

    @property
    def home(self) -> Path:
        """The folder that the server lives under."""
        return self._home

    def restart(self) -> URL:
        """Start the server again if it was killed; where it listens now.

        Raises DatabaseUnavailableError when its data are gone, or others stand in their place: a server on those would
        hide the loss.
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
            # Our own share is among those held, so it cannot be seen whether there are others.
            self._socket_folder = _running(self._home, self._timeout, shared=True)
        return self.url

    def check(self, session: Any) -> None:
        """Raise DatabaseUnavailableError unless `session` is one with the server on this very folder.

        Its path may lead to another folder by now, and its socket to the server of a folder that this one is a copy of.
        """
        with session.cursor() as cursor:
            cursor.execute("SELECT current_setting('data_directory'), current_setting('hpo.server', true)")
            Cluster(_data(self._home)).check_serves(*cursor.fetchone())

    def leave(self) -> None:
        """Give the share back; the last one to leave stops the server. Leaving twice does nothing."""
        self._finalizer()


def stop_embedded(home: Path, *, timeout: float = 60.0) -> bool:
    """Stop the server under `home`, whoever uses it; True when it was running."""
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
    # A forked child inherited the share and only closes its copy; a home that was deleted is not made again.
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
