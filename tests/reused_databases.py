"""ReusedDatabases: databases that tests use one after another, each of them as new.

A copy of the template takes PostgreSQL 0.1 s of processor time; emptying one takes a tenth of that. The sessions that a
test left are ended, and the database gets another name, so that nothing of that test can reach it any more. It is used
again only if nothing but rows of the emptied tables is left: not a row of the catalogs or of the tables' versions
differs from the template. Else it is dropped.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg2
import psycopg2.errors
from psycopg2 import sql
from sqlalchemy import URL, make_url

from storage import Database

_CATALOGS = (
    "pg_attrdef", "pg_attribute", "pg_class", "pg_constraint", "pg_default_acl", "pg_event_trigger", "pg_extension",
    "pg_index", "pg_largeobject_metadata", "pg_namespace", "pg_policy", "pg_proc", "pg_rewrite", "pg_sequence",
    "pg_trigger", "pg_type",
)  # fmt: skip
"""A statement that changes anything but rows writes a row of one of these, under a new transaction number."""

_VERSIONS = ("alembic_version", "hpo_schema", "version_info")
"""Tables that have rows from the beginning."""

_MADE = "SELECT " + ", ".join(
    [
        *(f"(SELECT concat(count(*), ' ', sum(xmin::text::bigint)) FROM {name})" for name in _CATALOGS),
        *(f"(SELECT string_agg({name}::text, ';' ORDER BY {name}::text) FROM {name})" for name in _VERSIONS),
        "(SELECT row(datdba, datallowconn, datconnlimit, dattablespace, datacl)::text FROM pg_database d "
        "WHERE datname = current_database())",
        "(SELECT count(*) FROM pg_db_role_setting s, pg_database d "
        "WHERE s.setdatabase = d.oid AND datname = current_database())",
    ]
)
"""What is the same in two databases that differ at most in the rows of other tables."""

_END_SESSIONS = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = %s"


class ReusedDatabases:
    """Databases of one server with optuna's tables and ours."""

    def __init__(self, server: str, template: str = "with_tables") -> None:
        self.server, self._template = server, template
        self._server = make_url(server)
        self._free: list[str] = []
        self._admin = self._connect("postgres")
        self._run(f"CREATE DATABASE {template}")
        with Database(self._server.set(database=template)) as made:
            made.initialise()
        with closing(self._connect(template)) as session, session.cursor() as cursor:
            self._made = _all(cursor, _MADE)
            self._empty = _emptying(cursor)

    @contextmanager
    def one(self) -> Iterator[str]:
        """Yield the URL of a database without a study, under a name that no other had before."""
        name = self._free.pop() if self._free else self._copy()
        yield self._url(name)
        self._run(_END_SESSIONS, name)
        later = self._unused_name()
        try:
            self._run(f"ALTER DATABASE {name} RENAME TO {later}")
        except psycopg2.errors.ObjectInUse:  # somebody connected meanwhile
            self._run(f"DROP DATABASE {name} WITH (FORCE)")
            return
        if self._is_as_made(later):
            self._free.append(later)
        else:
            self._run(f"DROP DATABASE {later} WITH (FORCE)")

    @contextmanager
    def without_tables(self) -> Iterator[str]:
        """Yield the URL of a new database without a single table."""
        name = self._unused_name()
        self._run(f"CREATE DATABASE {name} TEMPLATE template0")
        yield self._url(name)
        self._run(f"DROP DATABASE {name} WITH (FORCE)")

    def close(self) -> None:
        """Close the connection; the databases end with their server."""
        self._admin.close()

    def _copy(self) -> str:
        name = self._unused_name()
        self._run(f"CREATE DATABASE {name} TEMPLATE {self._template}")
        return name

    def _is_as_made(self, name: str) -> bool:
        """Empty the tables; return whether the database is now as a new one is."""
        try:
            with closing(self._connect(name)) as session, session.cursor() as cursor:
                cursor.execute(self._empty)
                return _all(cursor, _MADE) == self._made
        except psycopg2.Error:  # a table is gone, or nobody may connect any more
            return False

    def _run(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        with self._admin.cursor() as cursor:
            return _all(cursor, statement, *parameters)

    def _connect(self, database: str) -> Any:
        url = self._server
        session = psycopg2.connect(user=url.username, dbname=database, **url.query)
        session.autocommit = True
        return session

    def _url(self, name: str) -> str:
        url: URL = self._server.set(database=name)
        return url.render_as_string(hide_password=False)

    @staticmethod
    def _unused_name() -> str:
        return f"test_{uuid.uuid4().hex}"


def _all(cursor: Any, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
    cursor.execute(statement, parameters or None)
    return list(cursor.fetchall()) if cursor.description else []


def _emptying(cursor: Any) -> str:
    """Return statements that bring the rows of all tables and the sequences to what they are now."""
    tables = {row[0] for row in _all(cursor, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")}
    full = {name for name in tables if _all(cursor, f"SELECT 1 FROM {name} LIMIT 1")}
    assert full == set(_VERSIONS), full
    sequences = _all(
        cursor,
        "SELECT sequencename, coalesce(last_value, start_value), last_value IS NOT NULL FROM pg_sequences "
        "WHERE schemaname = 'public'",
    )
    statements = [
        # The constraints between the tables hold again once all of them are empty.
        sql.SQL("SET session_replication_role = replica"),
        *(sql.SQL("DELETE FROM {}").format(sql.Identifier(name)) for name in sorted(tables - full)),
        *(
            sql.SQL("SELECT setval({}, {}, {})").format(sql.Literal(name), sql.Literal(value), sql.Literal(called))
            for name, value, called in sequences
        ),
        sql.SQL("RESET session_replication_role"),
    ]
    return sql.SQL("; ").join(statements).as_string(cursor)
