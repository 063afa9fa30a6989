"""Connections to a PostgreSQL server: opened with retries, bounded in every wait, their faults translated.

The faults of libpq and PostgreSQL become errors of this package here only, by a table from messages to ways out. A
refused connection has no error code, only a message, so the table matches messages. The embedded server and the
documented ones answer in English (`lc_messages` may differ elsewhere); a message that is not listed is quoted.
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

# The first pattern that matches counts: first faults that pass by themselves, so that a retry may help, then faults
# that a person has to mend.
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
    """Return our error for the driver's: the database, the fault, the way out; without any password."""
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


def driver_error(error: BaseException) -> BaseException:
    """Return the driver's error inside the wrappers of SQLAlchemy and optuna."""
    while (below := getattr(error, "orig", None) or error.__cause__) is not None:
        error = below
    return error


def is_starting(error: psycopg2.Error) -> bool:
    """Return whether a server that is starting may refuse like this, so that a retry may help."""
    return _STARTING.search(str(error)) is not None


def translate(context: ExceptionContext, url: URL) -> None:
    """Raise our error for a fault of the database; an error of the statement itself is not changed."""
    error = context.original_exception
    if not isinstance(error, Exception):
        return  # Ctrl-C or SIGTERM within a statement, which SQLAlchemy takes for a lost connection
    # libpq's own faults in the middle of a statement come as the base class, without a code.
    # A failed ping of the pool is not translated: the pool then opens another connection.
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
    # A peer that vanished without closing the connection is noticed within a minute.
    "keepalives_idle": "20",
    "keepalives_interval": "10",
    "keepalives_count": "4",
    "tcp_user_timeout": "60000",  # milliseconds
}

LOCK_TIMEOUT = 60.0
"""Default time that a statement waits for a lock, in seconds."""

_BOUNDS = {
    "statement_timeout": "120s",
    "lock_timeout": f"{LOCK_TIMEOUT:g}s",
    "idle_in_transaction_session_timeout": "120s",
    "timezone": "UTC",
}
"""Bounds of every wait for the server, and the time zone."""

_BIND_SESSION = "; ".join(f"SET {name} = '{value}'" for name, value in _BOUNDS.items())

_BIND_TRANSACTION = "; ".join(f"SET LOCAL {name} = '{value}'" for name, value in _BOUNDS.items())

_ENVIRONMENT = threading.Lock()
"""Held while the variables of libpq are removed from the environment."""


class DriverConnection(psycopg2.extensions.connection):  # type: ignore[misc]  # psycopg2 has no types
    """A connection of the driver."""

    pooled = False
    """Whether a pooler such as PgBouncer is between it and the server. Each transaction may then run in another server
    process, and settings of the session would leak to other clients."""


class BoundedPool(QueuePool):
    """A pool whose timeout is raised as our error."""

    def allow_one_connection(self) -> None:
        """Allow one connection from now on; other threads wait for it."""
        self._max_overflow = 0

    def connect(self) -> PoolProxiedConnection:
        """Return a connection of the pool."""
        try:
            return super().connect()
        except PoolTimeoutError as error:
            raise DatabaseUnavailableError(
                "no connection to the database came free in time: all of this process are in use; "
                "use one Database for each thread"
            ) from error


class Connector:
    """Opens connections to the server at `url`, and retries for `start_timeout` seconds while the server is starting.

    The `embedded` server is restarted before another attempt. The variables of libpq (PGHOST, PGSERVICE, …) are meant
    for other servers and ignored for it, and each new connection is checked to lead to it.
    """

    def __init__(self, url: URL, *, start_timeout: float, embedded: EmbeddedServer | None = None) -> None:
        self.url = url
        self.start_timeout = start_timeout
        self._embedded = embedded

    def engine_options(self) -> dict[str, Any]:
        """Return the options of SQLAlchemy's engine. They hold no URL, so SQLAlchemy cannot show a password."""
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
        """Return an engine for this server."""
        return self.translating(create_engine("postgresql+psycopg2://", **self.engine_options()))

    def translating(self, engine: Engine) -> Engine:
        """Return `engine`, set up to raise our errors and to bind transactions."""
        event.listen(engine, "handle_error", lambda context: translate(context, self.url))
        event.listen(engine, "begin", _bind_transaction)
        return engine

    def _open(self) -> Any:
        deadline = time.monotonic() + self.start_timeout
        for pause in pauses(FIRST_PAUSE, LONGEST_PAUSE, jitter=0):
            try:
                return self._connect()
            except psycopg2.Error as error:
                left = deadline - time.monotonic()
                if not is_starting(error) or left <= 0:
                    raise unavailable(error, self.url) from None
            time.sleep(min(pause, left))
            if self._embedded is not None:
                self.url = self._embedded.restart()
        raise AssertionError("the pauses do not end")

    def _connect(self) -> Any:
        if self._embedded is None:
            return _connect(self.url)
        with without_libpq_variables():
            session = _connect(self.url)
        try:
            self._embedded.check(session)
        except BaseException:
            session.close()
            raise
        return session


@contextmanager
def without_libpq_variables() -> Iterator[None]:
    """Run the block without libpq's variables in the environment: no option of a connection can disable them."""
    with _ENVIRONMENT:
        held = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith(PREFIX)}
        try:
            yield
        finally:
            os.environ.update(held)


def _connect(url: URL) -> Any:
    given: dict[str, Any] = url.translate_connect_args(username="user", database="dbname")
    query = {name: value if isinstance(value, str) else ",".join(value) for name, value in url.query.items()}
    session = psycopg2.connect(**{**_CONNECT_DEFAULTS, **given, **query}, connection_factory=DriverConnection)
    with session, session.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        session.pooled = cursor.fetchone() != (session.get_backend_pid(),)  # a pooler invents a pid
        if not session.pooled:
            cursor.execute(_BIND_SESSION)
    return session


def _bind_transaction(connection: Connection) -> None:
    """Set the bounds for this transaction only if a pooler is in between."""
    session = connection.connection.dbapi_connection
    if isinstance(session, DriverConnection) and session.pooled:
        connection.exec_driver_sql(_BIND_TRANSACTION)
