"""EmbeddedServer: the PostgreSQL of the wheel under `<home>/postgres`, shared by all processes of one user.

Every process that uses it holds a share in `<home>/postgres.users`, which the kernel takes back however that process
ends; the one that leaves last stops the server. Starting and stopping happen under `<home>/postgres.lock`.
"""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import URL

from storage.cluster import PORT, USER, Cluster
from storage.errors import DatabaseUnavailableError
from storage.file_lock import SharedHold, exclusive, is_held

_log = logging.getLogger(__name__)


class EmbeddedServer:
    """This process's share in the server under `home`. Made by `join`; given back by `leave`, or at exit."""

    def __init__(self, home: Path, socket_folder: Path, hold: SharedHold, timeout: float) -> None:
        self._home = home
        self._socket_folder = socket_folder
        self._timeout = timeout
        self._finalizer = weakref.finalize(self, _leave, home, hold, timeout, os.getpid())

    @classmethod
    def join(cls, home: Path, *, timeout: float = 60.0) -> EmbeddedServer:
        """Start the server under `home`, or find it running. Any number of processes may call this at once.

        Raises DatabaseUnavailableError when the folder cannot be written, or the server does not answer within
        `timeout` seconds.
        """
        home = home.expanduser().absolute()
        with _locked(home, timeout):
            hold = SharedHold(_users(home))
            try:
                return cls(home, _running(home, timeout), hold, timeout)
            except BaseException:
                hold.release()
                raise

    @property
    def url(self) -> URL:
        """Where the server listens: a Unix socket that only its user may open. There is no password."""
        query = {"host": str(self._socket_folder), "port": str(PORT)}
        return URL.create("postgresql+psycopg2", username=USER, database="postgres", query=query)

    @property
    def home(self) -> Path:
        """The folder that the server lives under."""
        return self._home

    def revive(self) -> URL:
        """Start the server again if it was killed; where it listens now.

        Raises DatabaseUnavailableError when its data are gone: an empty server in their place would hide the loss.
        """
        if not _data(self._home).exists():
            raise DatabaseUnavailableError(
                f"{_data(self._home)} is gone, and the studies with it; start again with `hpo run` or `hpo init`"
            )
        with _locked(self._home, self._timeout):
            self._socket_folder = _running(self._home, self._timeout)
        return self.url

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


def _running(home: Path, timeout: float) -> Path:
    cluster = Cluster(_data(home))
    cluster.initialise()
    return cluster.start(timeout)


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
            f"{error.filename or home} cannot hold the embedded PostgreSQL: {error.strerror}; "
            "make room or give write permission there, work in another folder, or give --storage a URL"
        ) from error
