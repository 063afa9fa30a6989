"""The one edge where the faults of a database become ours: a table from what libpq and PostgreSQL say to the way out.

A refused connection has no code, only a text, so texts decide; the server's own are in English on both roads that we
give (`lc_messages` may differ elsewhere: an unlisted text is then quoted as it is).

Sessions with a PostgreSQL: opened with patience, bounded in every wait, and their faults translated.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2
import psycopg2.extensions
from psycopg2 import errors
from psycopg2.extensions import TransactionRollbackError
from sqlalchemy import URL, Connection, Engine, PoolProxiedConnection, QueuePool, create_engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from storage.embedded import EmbeddedServer
from storage.errors import ConflictError, DatabaseUnavailableError
from storage.postgres_binaries import PREFIX
from storage.retry import FIRST_PAUSE, LONGEST_PAUSE, pauses
from storage.urls import passwords, place

# The first pattern that is found counts: of what passes by itself, so that it is worth asking again, and then of what
# somebody has to mend.
_PASSING = (
    (r"Connection refused|No such file or directory", "no server listens there; start it, or check --storage"),
    (r"starting up|shutting down|recovery mode|not yet accepting", "the server is starting or stopping; try again"),
    (r"could not translate host name", "no such host; check --storage"),
    (r"statement timeout", "a statement took too long and was ended; see what the server is busy with"),
    (r"lock timeout", "another session held a lock too long; see what it is doing, then try again"),
    (
        r"terminating connection|closed the connection|already closed|closed unexpectedly|SYSCALL|Connection reset"
        r"|Broken pipe",
        "the connection was cut",
    ),
    (r"[Tt]imed out|timeout expired", "no answer in time; check host, port and firewall"),
    (r"No route to host|Network is unreachable", "the host cannot be reached; check the network and --storage"),
    (r"too many (clients|connections)|connection slots", "all its connections are taken; raise max_connections there"),
    (r"deadlock detected|could not serialize", "other sessions were in the way again and again; try again"),
    (r"read-only transaction|during recovery", "it can only be read, as a replica; give --storage the primary's URL"),
    (r"No space left on device|could not extend file", "the server's disk is full; free space there"),
)

_LASTING = (
    (r"password authentication failed|no password supplied", "wrong user or password; check both in --storage"),
    (
        r"(Peer|Ident) authentication failed",
        "this system user may not connect as that one; check the user in --storage",
    ),
    (r'role "[^"]*" does not exist', "no such user there; create it, or check --storage"),
    (r'role "[^"]*" is not permitted', "that user may not log in; grant it LOGIN, or check --storage"),
    (r'database "[^"]*" does not exist', "no such database there; create it (createdb), or check --storage"),
    (r'relation "[^"]*" does not exist', "it holds no studies yet; make one with `hpo run` or `hpo init`"),
    (r"pg_hba\.conf", "the server does not admit this host, user or database; see its pg_hba.conf"),
    (
        r"permission denied for (table|relation|sequence|view)",
        "the user may not write there; grant it SELECT, INSERT, UPDATE and DELETE on all tables and USAGE on all "
        "sequences of the schema",
    ),
    (r"permission denied", "the user lacks a permission; grant it CONNECT, and CREATE on the schema"),
    (r"SSL|certificate", "no secure connection; check sslmode and the certificates in --storage"),
    (r"invalid (dsn|connection option|URI)|invalid .* value", "--storage has an option that PostgreSQL does not know"),
    (r"expected authentication request|invalid response", "what listens there is not PostgreSQL; check host and port"),
)

_DENIED = re.compile(r"permission denied for (table|relation|sequence|view) \w+")

_STARTING = re.compile(
    "Connection refused|No such file|starting up|shutting down|recovery mode|not yet accepting"
    "|closed the connection|closed unexpectedly|Connection reset|Broken pipe|terminating connection"
)

_FAULTS = (
    psycopg2.OperationalError,
    psycopg2.InterfaceError,
    errors.InsufficientPrivilege,
    errors.ReadOnlySqlTransaction,
    errors.UndefinedTable,
)


def unavailable(error: BaseException, url: URL) -> DatabaseUnavailableError:
    """Our error for the driver's: where, the rule, the way out. Never the password."""
    text = str(error)
    kind = ConflictError if isinstance(error, TransactionRollbackError) else DatabaseUnavailableError
    passing, lasting = _way_out(_PASSING, text), _way_out(_LASTING, text)
    denied = _DENIED.search(text)
    about = f"{denied[0]}: " if denied else ""
    translated = kind(f"database {place(url)}: {about}{passing or lasting or _quoted(text, url)}")
    translated.passes = passing is not None or lasting is None
    return translated


def _way_out(table: tuple[tuple[str, str], ...], text: str) -> str | None:
    return next((way_out for pattern, way_out in table if re.search(pattern, text)), None)


def root(error: BaseException) -> BaseException:
    """The driver's own error below the wrappers of SQLAlchemy and optuna."""
    while (below := getattr(error, "orig", None) or error.__cause__) is not None:
        error = below
    return error


def is_starting(error: psycopg2.Error) -> bool:
    """Whether a server that is being started may refuse like this, so that patience may help."""
    return _STARTING.search(str(error)) is not None


def translate(context: ExceptionContext, url: URL) -> None:
    """Raise ours for a fault of the database in a statement; let pass what speaks of the statement itself.

    The ping of the pool passes too: it opens another connection.
    """
    error = context.original_exception
    # libpq's own faults in the middle of a statement come as the base class, without a code.
    fault = isinstance(error, _FAULTS) or type(error) is psycopg2.DatabaseError or context.is_disconnect
    if fault and not context.is_pre_ping:
        raise unavailable(error, url)


def _quoted(text: str, url: URL) -> str:
    line = next((line.strip() for line in text.splitlines() if line.strip()), "the connection failed")
    for password in passwords(url):
        line = line.replace(password, "***")
    return f"{line}; check --storage and the server"


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

    def allow_one_connection(self) -> None:
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

    def __init__(self, url: URL, *, start_timeout: float, embedded: EmbeddedServer | None = None) -> None:
        self.url = url
        self.start_timeout = start_timeout
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
        deadline = time.monotonic() + self.start_timeout
        for pause in pauses(FIRST_PAUSE, LONGEST_PAUSE, jitter=0):
            try:
                return self._session()
            except psycopg2.Error as error:
                left = deadline - time.monotonic()
                if not is_starting(error) or left <= 0:
                    raise unavailable(error, self.url) from None
            time.sleep(min(pause, left))
            if self._embedded is not None:
                self.url = self._embedded.restart()
        raise AssertionError("the pauses do not end")

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
