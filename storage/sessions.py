"""Sessions with a PostgreSQL: opened with patience, bounded in every wait, and their faults translated."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2
import psycopg2.extensions
from sqlalchemy import URL, Connection, Engine, PoolProxiedConnection, QueuePool, create_engine, event
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from storage.embedded import EmbeddedServer
from storage.errors import DatabaseUnavailableError
from storage.programs import PREFIX
from storage.translation import is_starting, translate, unavailable

_CONNECT_DEFAULTS = {
    "connect_timeout": "10",  # seconds
    "application_name": "hpo",
    # A peer that vanished without a word is noticed within a minute.
    "keepalives_idle": "20",
    "keepalives_interval": "10",
    "keepalives_count": "4",
    "tcp_user_timeout": "60000",  # milliseconds
}
LOCK_TIMEOUT = 60.0
"""Seconds that a statement waits for a lock, unless told otherwise."""
_BOUNDS = {
    "statement_timeout": "120s",
    "lock_timeout": f"{LOCK_TIMEOUT:g}s",
    "idle_in_transaction_session_timeout": "120s",
    "timezone": "UTC",
}
"""No wait for the server is endless."""
_BIND_SESSION = "; ".join(f"SET {name} = '{value}'" for name, value in _BOUNDS.items())
_BIND_TRANSACTION = "; ".join(f"SET LOCAL {name} = '{value}'" for name, value in _BOUNDS.items())

_ENVIRONMENT = threading.Lock()
"""Held while the environment is without the variables of libpq."""


class Session(psycopg2.extensions.connection):  # type: ignore[misc]  # psycopg2 has no types
    """A connection, and whether a pooler such as PgBouncer is between it and the server."""

    pooled = False
    """Each transaction may then be another server process's: what is set for a session would be left to others."""


class BoundedPool(QueuePool):
    """A pool whose own fault, that no connection came free in time, is raised as ours too."""

    def hold_one(self) -> None:
        """From now on have one connection and no second: whoever wants it meanwhile waits."""
        self._max_overflow = 0

    def connect(self) -> PoolProxiedConnection:
        """A connection of the pool."""
        try:
            return super().connect()
        except PoolTimeoutError as error:
            raise DatabaseUnavailableError(
                "no connection to the database came free in time: all of this process are in use; "
                "use one Database for each thread"
            ) from error


class Sessions:
    """Opens sessions with the server at `url`. A server that is just starting is given `patience` seconds.

    Where the server is the `embedded` one it is started again before another attempt, the variables of libpq (PGHOST,
    PGSERVICE, …), which are meant for other servers, do not count, and each new session is checked to be with it.
    """

    def __init__(self, url: URL, *, patience: float, embedded: EmbeddedServer | None = None) -> None:
        self.url = url
        self.patience = patience
        self._embedded = embedded

    def engine_options(self) -> dict[str, Any]:
        """How SQLAlchemy reaches the server. It is given no URL, so it can show no password."""
        return {
            "creator": self._open,
            "isolation_level": "READ COMMITTED",  # whatever the server's default: a lock's holder must see the latest
            "poolclass": BoundedPool,
            "pool_pre_ping": True,
            "pool_size": 1,
            "max_overflow": 1,
            "pool_timeout": 60,
        }

    def engine(self) -> Engine:
        """An engine on this server."""
        return self.watched(create_engine("postgresql+psycopg2://", **self.engine_options()))

    def watched(self, engine: Engine) -> Engine:
        """`engine`, whose faults of the database are raised as ours from now on."""
        event.listen(engine, "handle_error", lambda context: translate(context, self.url))
        event.listen(engine, "begin", _bind_transaction)
        return engine

    def _open(self) -> Any:
        deadline = time.monotonic() + self.patience
        pause = 0.1
        while True:
            try:
                return self._session()
            except psycopg2.Error as error:
                left = deadline - time.monotonic()
                if not is_starting(error) or left <= 0:
                    raise unavailable(error, self.url) from None
            time.sleep(min(pause, left))
            pause = min(2 * pause, 2.0)
            if self._embedded is not None:
                self.url = self._embedded.revive()

    def _session(self) -> Any:
        if self._embedded is None:
            return _session(self.url)
        with without_libpq_variables():
            session = _session(self.url)
        try:
            self._embedded.check(session)
        except BaseException:
            session.close()
            raise
        return session


@contextmanager
def without_libpq_variables() -> Iterator[None]:
    """Inside, the environment has no variable of libpq: an option cannot be set to «as if there were no variable»."""
    with _ENVIRONMENT:
        held = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith(PREFIX)}
        try:
            yield
        finally:
            os.environ.update(held)


def _session(url: URL) -> Any:
    given: dict[str, Any] = url.translate_connect_args(username="user", database="dbname")
    query = {name: value if isinstance(value, str) else ",".join(value) for name, value in url.query.items()}
    session = psycopg2.connect(**{**_CONNECT_DEFAULTS, **given, **query}, connection_factory=Session)
    with session, session.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        session.pooled = cursor.fetchone() != (session.get_backend_pid(),)  # a pooler gives a number of its own
        if not session.pooled:
            cursor.execute(_BIND_SESSION)
    return session


def _bind_transaction(connection: Connection) -> None:
    """Through a pooler the bounds are set in each transaction anew, and end with it."""
    session = connection.connection.dbapi_connection
    if isinstance(session, Session) and session.pooled:
        connection.exec_driver_sql(_BIND_TRANSACTION)
