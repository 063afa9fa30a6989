"""The one edge where the faults of a database become ours: a table from what libpq and PostgreSQL say to the way out.

A refused connection has no code, only a text, so texts decide; the server's own are in English on both roads that we
give (`lc_messages` may differ elsewhere: an unlisted text is then quoted as it is).
"""

from __future__ import annotations

import re

import psycopg2
from psycopg2 import errors
from psycopg2.extensions import TransactionRollbackError
from sqlalchemy import URL
from sqlalchemy.engine import ExceptionContext

from storage.errors import ConflictError, DatabaseUnavailableError
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
