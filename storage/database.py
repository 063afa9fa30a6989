"""Database: one PostgreSQL database of studies, the embedded one or any other, and the tables of hpo beside optuna's.

hpo_schema     the version of these tables
hpo_studies    the control of each study: run, pause, stop
hpo_openings   the accesses to test parts
hpo_leases     the lease of every trial that was ever claimed
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import TracebackType

from optuna.exceptions import StorageInternalError
from sqlalchemy import URL, Connection, inspect, text
from sqlalchemy.exc import SQLAlchemyError

from storage.connections import LOCK_TIMEOUT, BoundedPool, Connector, driver_error, unavailable
from storage.embedded import EmbeddedServer
from storage.errors import StorageError, StudyError
from storage.fenced_storage import FencedStorage
from storage.retry import RetryPolicy
from storage.urls import parse_url, place, safe_url

_LEASES = """
CREATE SEQUENCE hpo_tokens;
CREATE TABLE hpo_studies (
    study_id integer PRIMARY KEY REFERENCES studies ON DELETE CASCADE,
    control text NOT NULL CHECK (control IN ('run', 'pause', 'stop'))
);
CREATE TABLE hpo_leases (
    trial_id integer PRIMARY KEY REFERENCES trials ON DELETE CASCADE,
    study_id integer NOT NULL REFERENCES studies ON DELETE CASCADE,
    state text NOT NULL CHECK (state IN ('held', 'free', 'ended')),
    worker text NOT NULL,                    -- unique name of the process
    host text NOT NULL,
    pid integer NOT NULL,
    place text NOT NULL,                     -- where the pid is valid: boot and pid namespace
    device text NOT NULL,
    token bigint NOT NULL,                   -- grows with every change of holder
    claimed_at timestamptz NOT NULL,
    renewed_at timestamptz NOT NULL,
    deadline timestamptz NOT NULL,
    seconds double precision NOT NULL,       -- duration of the holder's lease
    deaths integer NOT NULL DEFAULT 0,       -- holders lost in a row without an epoch between
    position double precision NOT NULL DEFAULT 0,  -- epochs done, with the fraction of the current one
    redone double precision NOT NULL DEFAULT 0,    -- repeated epochs, of all attempts
    takings integer NOT NULL DEFAULT 1,
    checkpoint jsonb,
    note text
);
CREATE INDEX hpo_leases_of_study ON hpo_leases (study_id, state, deadline);
CREATE INDEX hpo_trials_of_study ON trials (study_id, state);
"""

_ADOPT = """
-- Trials that an earlier version left running can be claimed at once: whether their workers live is not known.
INSERT INTO hpo_leases (trial_id, study_id, state, worker, host, pid, place, device, token,
                        claimed_at, renewed_at, deadline, seconds)
SELECT t.trial_id, t.study_id, 'held', 'an earlier version', '', 0, '', '', nextval('hpo_tokens'),
       clock_timestamp(), clock_timestamp(), clock_timestamp(), 0
FROM trials t JOIN study_user_attributes a ON a.study_id = t.study_id AND a.key = 'hpo:spec'
WHERE t.state = 'RUNNING'
"""

_OPENINGS = """
CREATE TABLE hpo_openings (
    key text PRIMARY KEY,                    -- date, command, data and model
    test text NOT NULL,                      -- the digest of the test part
    opening jsonb NOT NULL
);
CREATE INDEX hpo_openings_of_test ON hpo_openings (test);
"""

MIGRATIONS = (_LEASES, _ADOPT, _OPENINGS)
"""The i-th migrates from version i to i + 1. New ones are appended; earlier ones never change."""

WORKABLE = 2
"""The first version with which studies can be read, controlled and worked on. A later migration that only adds a table
does not raise it: a function that writes to that table creates it, and one that reads finds nothing."""


def migrate(connection: Connection) -> None:
    """Migrate the tables to this version. The caller holds the lock of `initialise`, in whose transaction this runs."""
    connection.execute(text("CREATE TABLE IF NOT EXISTS hpo_schema (version integer NOT NULL)"))
    version = _version(connection)
    _refuse_newer(version)
    for migration in MIGRATIONS[version:]:
        connection.exec_driver_sql(migration)
    connection.execute(text("DELETE FROM hpo_schema"))
    connection.execute(text("INSERT INTO hpo_schema VALUES (:version)"), {"version": len(MIGRATIONS)})


def is_current(connection: Connection) -> bool:
    """Return whether the tables are of this version. Raises StorageError when they are of a later one."""
    return _checked_version(connection) == len(MIGRATIONS)


def is_workable(connection: Connection) -> bool:
    """Return whether studies can be worked on with these tables. Raises StorageError for tables of a later version."""
    return _checked_version(connection) >= WORKABLE


def _checked_version(connection: Connection) -> int:
    if not inspect(connection).has_table("hpo_schema"):
        return 0
    version = _version(connection)
    _refuse_newer(version)
    return version


def _version(connection: Connection) -> int:
    version: int = connection.execute(text("SELECT coalesce(max(version), 0) FROM hpo_schema")).scalar_one()
    return version


def _refuse_newer(version: int) -> None:
    if version > len(MIGRATIONS):
        raise StorageError(
            f"the tables of the database are of a later version of hpo (schema {version}, here {len(MIGRATIONS)}); "
            "upgrade hpo on this machine"
        )


_IDENTITY = text(
    "SELECT c.system_identifier || '/' || d.oid FROM pg_control_system() c, pg_database d "
    "WHERE d.datname = current_database()"
)


# Optuna creates all tables in one transaction, and writes their version afterwards.
_TABLES = text(
    """
    SELECT c.relname, array_agg(CAST(a.attname AS text)) AS columns
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid
    WHERE n.nspname = current_schema() AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND a.attnum > 0
      AND c.relname IN ('studies', 'trials', 'version_info', 'alembic_version')
    GROUP BY c.relname
    """
)

_OPTUNAS_VERSION = re.compile(r"v\d+\.\d+\.\d+\.\w+")


class Database:
    """A database of studies; a context manager. Two connections stay open, one of `engine` and one of `storage`.

    No text that it shows or raises holds a password. Every fault of the database, also in statements of optuna, is
    raised as DatabaseUnavailableError, and a study that was deleted meanwhile as StudyError.
    """

    def __init__(self, url: URL, *, server: EmbeddedServer | None = None, start_timeout: float = 30.0) -> None:
        self._server = server
        self._connector = Connector(url, start_timeout=start_timeout, embedded=server)
        self._storage: FencedStorage | None = None
        self.engine = self._connector.engine()

    @property
    def url(self) -> URL:
        """URL of the database. Its `repr` masks the password, but none in the query; show `safe_url` instead."""
        return self._connector.url

    @property
    def safe_url(self) -> str:
        """The URL with every password masked."""
        return safe_url(self.url)

    @property
    def where(self) -> str:
        """The database as messages name it: the URL without passwords, or the folder of the embedded server."""
        return self.safe_url if self._server is None else f"the PostgreSQL embedded in {self._server.home}"

    @property
    def start_timeout(self) -> float:
        """Seconds for which an attempt to connect waits for a server that is just starting."""
        return self._connector.start_timeout

    @start_timeout.setter
    def start_timeout(self, seconds: float) -> None:
        self._connector.start_timeout = seconds

    @property
    def storage(self) -> FencedStorage:
        """The storage for optuna, on existing tables. Raises StorageError for tables of another version or program."""
        if self._storage is None:
            with self.engine.connect() as connection:
                self._has_tables(connection)
            # No other connection is held while the storage is opened, or fails to open: a user may have two at most,
            # and workers that start at the same time must not wait for one another.
            self.engine.dispose()
            self._storage = self._open_storage(create=False)
        return self._storage

    def initialise(self) -> None:
        """Create the tables unless they exist. Any number of processes may call this at once."""
        if not self.is_initialised():
            # Without the lock, six or seven of eight processes that let optuna do this at once end in IntegrityError.
            with self.lock("hpo:schema") as connection:
                if not self._has_tables(connection):
                    self._storage = self._open_storage(create=True)
                if not is_current(connection):
                    migrate(connection)
        _ = self.storage  # raises now for tables of another version

    def is_initialised(self) -> bool:
        """Return whether optuna's tables and ours exist in this version. Raises StorageError for a later one."""
        with self.engine.connect() as connection:
            return self._has_tables(connection) and is_current(connection)

    def require_schema(self) -> None:
        """Raise StorageError unless studies can be worked on. Workers do not migrate the tables.

        Tables of an earlier version that lack only tables added later are accepted.
        """
        with self.engine.connect() as connection:
            workable = self._has_tables(connection) and is_workable(connection)
        if not workable:
            raise StorageError(
                f"the tables in {self.where} are of an earlier version of hpo; `hpo init` or `hpo run`, with "
                "the study's own options, brings them up to date"
            )

    def now(self) -> datetime:
        """Return the time by the database's clock, which all workers use: with time zone, UTC."""
        with self.engine.connect() as connection:
            moment: datetime = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
        return moment

    def identity(self) -> str:
        """Return cluster and number of this database, which differ from those of any other, also of a restored dump.

        A cluster keeps its identifier when its folder is moved and when a replica of it is promoted.
        """
        with self.engine.connect() as connection:
            return str(connection.execute(_IDENTITY).scalar_one())

    @contextmanager
    def lock(self, key: str, *, timeout: float = LOCK_TIMEOUT) -> Iterator[Connection]:
        """Hold the exclusive advisory lock of `key`; yield the connection whose transaction holds it.

        The transaction commits and releases the lock at the end. Raises DatabaseUnavailableError when others hold the
        lock for more than `timeout` seconds. The lock is lost with its connection, in which case the next statement on
        it fails, and when the connection is idle for two minutes.
        """
        with self.engine.begin() as connection:
            connection.execute(text(f"SET LOCAL lock_timeout = {timeout * 1000:.0f}"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": advisory_number(key)})
            connection.execute(text(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT * 1000:.0f}"))
            yield connection

    def close(self) -> None:
        """Close the connections; the embedded server stops when this was its last user."""
        if self._storage is not None:
            self._storage.remove_session()
            self._storage.engine.dispose()
        self.engine.dispose()
        if self._server is not None:
            self._server.leave()

    def _has_tables(self, connection: Connection) -> bool:
        """Return whether optuna's tables are complete. Raises StorageError for tables of another program."""
        columns = {row.relname: set(row.columns) for row in connection.execute(_TABLES)}
        if not columns:
            return False
        versions: list[str] = []
        if "version_num" in columns.get("alembic_version", ()):
            versions = list(connection.execute(text("SELECT version_num FROM alembic_version")).scalars())
        ours = "study_name" in columns.get("studies", ()) and "library_version" in columns.get("version_info", ())
        if ours and all(_OPTUNAS_VERSION.fullmatch(version) for version in versions):
            return bool(versions)
        found = f"alembic_version {', '.join(versions)}" if versions else ", ".join(sorted(columns))
        raise StorageError(
            f"database {place(self.url)} holds the tables of another program ({found:.100}); "
            "give hpo a database of its own"
        )

    def _open_storage(self, *, create: bool) -> FencedStorage:
        try:
            storage = FencedStorage(
                "postgresql+psycopg2://", self._connector.engine_options(), skip_table_creation=not create
            )
        except RuntimeError as error:
            raise StorageError(f"database {place(self.url)}: {error}") from error
        except (SQLAlchemyError, StorageInternalError) as error:  # its engine does not translate before it is made
            raise unavailable(driver_error(error), self.url) from error
        self._connector.translating(storage.engine)
        # Optuna needs two connections to check its tables, and one afterwards. A worker has two in all.
        assert isinstance(storage.engine.pool, BoundedPool)
        storage.engine.pool.allow_one_connection()
        return storage

    def __repr__(self) -> str:
        return f"Database({self.safe_url!r})"

    def __enter__(self) -> Database:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_database(url: str | None, *, home: Path, start_timeout: float = 30.0, create: bool = True) -> Database:
    """Connect to `url`, or to the embedded PostgreSQL under `home` when there is none.

    With `create` the embedded one is created if it is missing; without, that is a StudyError. An attempt waits up to
    `start_timeout` seconds for a server that is just starting. Raises DatabaseUnavailableError, in one line and without
    the password, when the server cannot be reached or refuses the connection.
    """
    if url is None:
        if not create and not EmbeddedServer.exists(home):
            raise StudyError(
                f"{home} holds no studies; make one with `hpo run` or `hpo init`, or say with --home or --storage "
                "where they are"
            )
        server = EmbeddedServer.join(home)
        database = Database(server.url, server=server, start_timeout=start_timeout)
    else:
        database = Database(parse_url(url), start_timeout=start_timeout)
    try:
        RetryPolicy(start_timeout).run(database.now)  # a starting server may accept a connection and cut it again
    except BaseException:
        database.close()
        raise
    return database


def advisory_number(key: str) -> int:
    """Return the number of `key` for PostgreSQL's advisory locks: a signed 64-bit integer."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], signed=True)
