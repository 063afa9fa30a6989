"""The tables of ours beside optuna's: each migration is applied once, in order, under the initialiser's lock.

hpo_schema     the version
hpo_studies    what all workers of a study are told: run, pause, stop
hpo_openings   every look at a test part that this database has heard of
hpo_leases     who trains a trial, or did: one row for every trial that was ever taken up
"""

from __future__ import annotations

from sqlalchemy import Connection, inspect, text

from storage.errors import StorageError

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
    worker text NOT NULL,                    -- the process, by a name that no other ever has
    host text NOT NULL,
    pid integer NOT NULL,
    place text NOT NULL,                     -- where process numbers mean the same: this boot, this pid namespace
    device text NOT NULL,
    token bigint NOT NULL,                   -- grows with every change of hands
    claimed_at timestamptz NOT NULL,
    renewed_at timestamptz NOT NULL,
    deadline timestamptz NOT NULL,
    seconds double precision NOT NULL,       -- how long the holder's lease lasts
    deaths integer NOT NULL DEFAULT 0,       -- holders lost one after another without an epoch between
    position double precision NOT NULL DEFAULT 0,  -- epochs done, with the fraction of the one under way
    redone double precision NOT NULL DEFAULT 0,    -- epochs trained again, all takings together
    takings integer NOT NULL DEFAULT 1,
    checkpoint jsonb,
    note text
);
CREATE INDEX hpo_leases_of_study ON hpo_leases (study_id, state, deadline);
CREATE INDEX hpo_trials_of_study ON trials (study_id, state);
"""

_ADOPT = """
-- What an earlier version left running is taken over at once: nobody can say whether its worker lives.
INSERT INTO hpo_leases (trial_id, study_id, state, worker, host, pid, place, device, token,
                        claimed_at, renewed_at, deadline, seconds)
SELECT t.trial_id, t.study_id, 'held', 'an earlier version', '', 0, '', '', nextval('hpo_tokens'),
       clock_timestamp(), clock_timestamp(), clock_timestamp(), 0
FROM trials t JOIN study_user_attributes a ON a.study_id = t.study_id AND a.key = 'hpo:spec'
WHERE t.state = 'RUNNING'
"""

_OPENINGS = """
CREATE TABLE hpo_openings (
    key text PRIMARY KEY,                    -- when, by which command, at which data, with which model
    test text NOT NULL,                      -- the digest of the test part
    opening jsonb NOT NULL
);
CREATE INDEX hpo_openings_of_test ON hpo_openings (test);
"""

MIGRATIONS = (_LEASES, _ADOPT, _OPENINGS)
"""From version i to i + 1. Only ever appended to."""
WORKABLE = 2
"""The version from which on studies can be read, told what to do and worked on. A later migration that only adds a
table leaves it as it is: what writes to that table makes it, and who reads it finds nothing."""


def migrate(connection: Connection) -> None:
    """Bring the tables to this version. The caller holds the initialiser's lock, in whose transaction this runs."""
    connection.execute(text("CREATE TABLE IF NOT EXISTS hpo_schema (version integer NOT NULL)"))
    version = _version(connection)
    _refuse_newer(version)
    for migration in MIGRATIONS[version:]:
        connection.exec_driver_sql(migration)
    connection.execute(text("DELETE FROM hpo_schema"))
    connection.execute(text("INSERT INTO hpo_schema VALUES (:version)"), {"version": len(MIGRATIONS)})


def is_current(connection: Connection) -> bool:
    """Whether the tables are of this version. Raises StorageError where they are of a later one."""
    return _checked_version(connection) == len(MIGRATIONS)


def is_workable(connection: Connection) -> bool:
    """Whether studies can be worked on with the tables as they are. Raises StorageError where they are of a later
    version.
    """
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
