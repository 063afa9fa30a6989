"""The checks of the database, of a study and of its data."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from hpo import __version__
from hpo.doctor.check import Check, failed, passed
from hpo.errors import HpoError
from hpo.hints import hint
from search_spaces import SpaceError, read_space
from storage import Control, StorageError, get_control, lease_infos, open_study, read_spec

if TYPE_CHECKING:
    from collections.abc import Sequence

    import optuna
    from sqlalchemy import Connection

    from hpo.data import Dataset, SplitOptions
    from hpo.data.sampled_images import Inspection
    from storage import Database, LeaseInfo


PER_WORKER = 2
"""The number of connections that a worker keeps open."""

SKEW = 5.0
"""The largest difference between a host's clock and the database's that passes, in seconds."""

_PINGS = 5

_FACTS = """
SELECT current_setting('server_version') AS version, pg_is_in_recovery() AS replica,
    current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int AS most,
    (SELECT sum(numbackends) FROM pg_stat_database)::int AS used,
    to_regclass('studies') IS NOT NULL OR to_regclass('alembic_version') IS NOT NULL AS filled
"""

_RIGHTS = """
SELECT c.relname, r.wanted FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
CROSS JOIN (VALUES ('SELECT'), ('INSERT'), ('UPDATE'), ('DELETE')) r (wanted)
WHERE n.nspname = current_schema() AND c.relname ~ '^(hpo_|stud|trial)'
  AND CASE WHEN c.relkind = 'r' THEN NOT has_table_privilege(c.oid, r.wanted) END
UNION ALL
SELECT c.relname, 'USAGE' FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = current_schema() AND c.relname ~ '^(hpo_|stud|trial)'
  AND CASE WHEN c.relkind = 'S' THEN NOT has_sequence_privilege(c.oid, 'USAGE') END
"""
"""The rights that the user lacks on optuna's tables and ours.

With a CASE, because PostgreSQL may evaluate the rights before the kind of a relation.
"""


def check_database(db: Database) -> Iterator[Check]:
    """Check the server, its schema, its connections and the clock."""
    from sqlalchemy import text

    try:
        with db.engine.connect() as connection:
            facts = connection.execute(text(_FACTS)).one()
            milliseconds = 1000 * _latency(connection)
        answers = f"PostgreSQL {facts.version}, {db.where}, answers in {milliseconds:.1f} ms"
        if facts.replica:
            yield failed("database", f"{answers}, but is a replica", "give --storage the URL of the primary")
        else:
            yield passed("database", answers)
        yield _schema(db, bool(facts.filled))
        yield check_connections(facts.most, facts.used)
        yield check_clock(_skew(db))
    except StorageError as error:
        yield failed("database", error)


def check_connections(most: int, used: int) -> Check:
    """Check that one more worker finds its connections; `used` of `most` are taken, including ours."""
    free = most - used
    detail = f"{free} of {most} connections are free: room for {max(0, free) // PER_WORKER} more workers"
    if free < PER_WORKER:
        return failed("connections", detail, "raise max_connections there, or end sessions that are not needed")
    return passed("connections", detail)


def check_clock(skew: float) -> Check:
    """Check this host's clock, which is `skew` seconds ahead of the database's."""
    direction = "ahead of" if skew > 0 else "behind"
    detail = f"this host is {abs(skew):.1f} s {direction} the database"
    if abs(skew) <= SKEW:
        return passed("clock", detail)
    return failed(
        "clock", f"{detail}; leases follow the database's clock and are not affected, but times of trials and logs are",
        "let NTP set the clock of this host",
    )  # fmt: skip


def _schema(db: Database, filled: bool) -> Check:
    if not filled:
        return passed("schema", "no study yet: the first `hpo run` or `hpo init` makes the tables")
    try:
        db.require_schema()
        _ = db.storage
        lacking = _missing_rights(db)
    except StorageError as error:
        return failed("schema", error)
    if lacking is not None:
        return lacking
    ours = f"hpo {__version__}" if db.is_initialised() else "an earlier hpo, with which this one works,"
    return passed("schema", f"the tables are of {ours} and optuna {version('optuna')}")


def _missing_rights(db: Database) -> Check | None:
    """Return the failed check of rights that a worker needs; None if a write was tried and succeeded."""
    from sqlalchemy import text

    with db.engine.connect() as connection:
        rows = connection.execute(text(_RIGHTS)).all()
        if not rows:
            connection.execute(text("UPDATE hpo_schema SET version = version"))
            connection.rollback()
            return None
        user, schema = connection.execute(text("SELECT current_user, current_schema()")).one()
    missing = {row.wanted for row in rows}
    rights = ", ".join(right for right in ("SELECT", "INSERT", "UPDATE", "DELETE", "USAGE") if right in missing)
    names = ", ".join(dict.fromkeys(row.relname for row in rows))
    return failed(
        "schema", f"the user {user} may read studies, but not work on them: it lacks {rights} on {names}",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {user}; "
        f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA {schema} TO {user}",
    )  # fmt: skip


def _latency(connection: Connection) -> float:
    """Return the seconds of one query, the median of a few."""
    times = []
    for _ in range(_PINGS):
        start = time.perf_counter()
        connection.exec_driver_sql("SELECT 1")
        times.append(time.perf_counter() - start)
    return median(times)


def _skew(db: Database) -> float:
    before = datetime.now(UTC)
    theirs = db.now()
    after = datetime.now(UTC)
    return (before + (after - before) / 2 - theirs).total_seconds()


def check_study(db: Database, name: str) -> Iterator[Check]:
    """Check the study, its control state and its leases."""
    try:
        study = open_study(db, name)
        read_spec(study)
        db.require_schema()
        before = _running(study)
        leases = lease_infos(db, study)
        running = before & _running(study)  # not those that began or ended meanwhile
        control = get_control(db, study)
    except StorageError as error:
        yield failed("study", error)
        return
    yield check_control(name, control)
    yield check_leases(name, leases, running)


def check_control(name: str, control: Control) -> Check:
    """Check that the study's workers may work."""
    if control is Control.RUN:
        return passed("study", f"{name} is there, and its workers may work")
    state = "paused" if control is Control.PAUSE else "stopped"
    return failed("study", f"{name} is {state}", f"`{hint('resume', study=name)}` lets workers go on")


def check_leases(name: str, leases: Sequence[LeaseInfo], running: set[int]) -> Check:
    """Check that every running trial has a lease that has not expired."""
    held = [lease for lease in leases if lease.state == "held"]
    expired = [lease.number for lease in held if lease.left < 0]
    bare = sorted(running - {lease.number for lease in held})
    reap = f"`{hint('reap', study=name)}`"
    if bare:
        return failed("leases", f"trials run without a lease: {_numbers(bare)}", f"{reap} requeues them")
    if expired:
        detail = f"trials whose lease has expired: {_numbers(expired)}"
        return failed("leases", detail, f"the next worker claims them; if none comes, {reap} requeues them")
    return passed("leases", f"the leases of {len(held)} running trials are valid" if held else "no trial runs")


def check_data(data: Path, db: Database | None, study: str | None, cache: Path) -> Check:
    """Check that DATA has a supported layout, readable images of each class, and the images of the study if given.

    The summary is then that of the study's own data, all of which are read: with its split, and without what it leaves
    out.
    """
    from hpo.data.sampled_images import inspect_data
    from hpo.data.summary import summarise

    try:
        seen = inspect_data(data, split=_split_of(db, study))
        found = f"{data}: {_images_line(seen)}"
        if db is not None and study is not None:
            dataset = _study_data(data, open_study(db, study), cache)
            return passed("data", f"{found}, those that {study} was made with", summarise(dataset))
    except (HpoError, SpaceError, OSError) as error:
        return failed("data", error)
    except StorageError:
        return passed("data", f"{found}; whether they are the study's is not known", seen.summary)
    return passed("data", found, seen.summary)


def _images_line(seen: Inspection) -> str:
    """Return the counts of images and classes; those that can be read are counted apart, as `hpo data` does."""
    unreadable, classes = len(seen.summary.unreadable), f"{len(seen.summary.classes)} classes"
    if seen.decoded < seen.images:
        bad = f", {unreadable:,} of which cannot be read" if unreadable else ""
        return f"{seen.images:,} images of {classes}, {seen.decoded:,} of them decoded{bad}"
    if unreadable:
        return (
            f"{seen.images - unreadable:,} images of {classes} that can be read, {unreadable:,} that cannot, all tried"
        )
    return f"{seen.images:,} images of {classes}, all decoded"


def _split_of(db: Database | None, study: str | None) -> SplitOptions:
    """Return how DATA are to be split: as the study's, or by default."""
    from hpo.data import SplitOptions
    from hpo.search.plan import origin_of

    if db is None or study is None:
        return SplitOptions()
    # With a study, its own limit of unreadable images counts, when its data are opened.
    try:
        return replace(origin_of(read_spec(open_study(db, study))).options, max_unreadable=1)
    except StorageError:
        return SplitOptions(max_unreadable=1)


def _study_data(data: Path, study: optuna.Study, cache: Path) -> Dataset:
    """Return the study's data; DataError for others. Images that this host has no pack of are decoded now."""
    from hpo.search.plan import open_study_data

    spec = read_spec(study)
    sizes: list[Any] = read_space(spec.space).values("image_size")
    return open_study_data(data, spec, min(sizes), cache, name=study.study_name)


def _running(study: optuna.Study) -> set[int]:
    from optuna.trial import TrialState

    return {trial.number for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))}


def _numbers(numbers: Sequence[int]) -> str:
    shown = ", ".join(str(number) for number in numbers[:8])
    return f"{shown} and {len(numbers) - 8} more" if len(numbers) > 8 else shown
