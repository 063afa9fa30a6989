from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
import pytest
from sqlalchemy import text

from storage import (
    Claim,
    Database,
    DatabaseUnavailableError,
    LeaseSession,
    RetryPolicy,
    StorageError,
    Worker,
    claim_trial,
    load_trial,
    open_database,
    open_study,
    read_limits,
)
from storage.connections import Connector
from storage.postgres_binaries import ServerAccount, run_program
from tests.conftest import TcpServer

pytestmark = pytest.mark.postgres
NOWHERE = Path("unused")


def initialise_and_count(url: str) -> int:
    with open_database(url, home=NOWHERE) as database:
        database.initialise()
        return len(database.storage.get_all_studies())


def test_eight_processes_at_once_on_an_empty_database_all_succeed(empty_url: str, at_once: Any) -> None:
    assert at_once(8, initialise_and_count, empty_url) == [0] * 8


def test_initialise_does_nothing_the_second_time(database: Database) -> None:
    optuna.create_study(study_name="kept", storage=database.storage)
    database.initialise()
    assert [study.study_name for study in database.storage.get_all_studies()] == ["kept"]


def test_an_interrupted_initialisation_is_completed(empty_url: str) -> None:
    with open_database(empty_url, home=NOWHERE) as database:
        database.initialise()
        with database.engine.begin() as connection:
            connection.execute(text("DELETE FROM alembic_version"))
    assert initialise_and_count(empty_url) == 0


def test_tables_of_another_version_of_optuna_are_refused_with_that_version(database_url: str) -> None:
    with open_database(database_url, home=NOWHERE) as database, database.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'v2.6.0.a'"))
        connection.execute(text("UPDATE version_info SET library_version = '2.6.0'"))
    with (
        open_database(database_url, home=NOWHERE) as database,
        pytest.raises(
            StorageError, match=rf"{optuna.__version__} is no longer compatible.*set up by optuna 2\.6\.0.*upgrade"
        ),
    ):
        database.initialise()


def test_the_clock_is_the_databases_in_utc(database: Database) -> None:
    assert database.now().tzinfo is not None
    assert database.now().utcoffset() == timedelta(0)
    assert abs(database.now() - datetime.now(UTC)) < timedelta(minutes=1)
    assert database.now() < database.now()


def test_no_view_of_a_database_shows_its_password(tcp_server: Any, caplog: pytest.LogCaptureFixture) -> None:
    with (
        caplog.at_level(logging.DEBUG),
        open_database(tcp_server.url(), home=NOWHERE) as database,
    ):
        database.initialise()
        views = [repr(database), str(database), database.safe_url, repr(database.url), str(database.url)]
        views += [repr(database.engine), repr(database.engine.url), database.storage.url, repr(vars(database.storage))]
    assert "Secret" not in " ".join(views) + caplog.text
    assert f"admin:***@127.0.0.1:{tcp_server.port}/postgres" in database.safe_url


def test_a_worker_holds_two_connections(database: Database, sessions: Callable[[], int]) -> None:
    study = optuna.create_study(study_name="s", storage=database.storage)
    for _ in range(3):
        with database.lock("k"):
            trial = study.ask()
        trial.suggest_float("x", 0, 1)
        study.tell(trial, 1.0)
    database.now()
    assert sessions() == 2


def test_a_dropped_connection_is_replaced(database: Database) -> None:
    study = optuna.create_study(study_name="s", storage=database.storage)
    trial = study.ask()
    database.now()
    _terminate_all(database)
    database.now()
    trial.report(0.5, 1)
    assert study.trials[0].intermediate_values == {1: 0.5}


def test_a_connection_cut_in_a_statement_is_a_fault_of_the_database(database: Database) -> None:
    with (
        database.engine.connect() as connection,
        pytest.raises(DatabaseUnavailableError, match="the connection was cut"),
    ):
        connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
    assert database.now()


def test_a_connection_cut_in_a_statement_of_optuna_is_a_fault_of_the_database(database: Database) -> None:
    _ = database.storage
    with pytest.raises(DatabaseUnavailableError, match="the connection was cut"), database.storage.engine.begin() as c:
        c.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
    assert database.storage.get_all_studies() == []


def _terminate_all(database: Database) -> None:
    url = database.url.render_as_string(hide_password=False)
    with open_database(url, home=NOWHERE) as other, other.engine.connect() as connection:
        connection.execute(
            text(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )


def count_up(url: str, rounds: int) -> None:
    with open_database(url, home=NOWHERE) as database:
        for _ in range(rounds):
            with database.lock("tally"):
                with database.engine.begin() as connection:
                    value = connection.execute(text("SELECT value FROM tally")).scalar_one()
                with database.engine.begin() as connection:
                    connection.execute(text("UPDATE tally SET value = :value"), {"value": value + 1})


def test_a_lock_admits_one_process_at_a_time(database: Database, database_url: str, at_once: Any) -> None:
    with database.engine.begin() as connection:
        connection.execute(text("CREATE TABLE tally AS SELECT 0 AS value"))
    assert at_once(4, count_up, database_url, 10) == [None] * 4
    with database.engine.begin() as connection:
        assert connection.execute(text("SELECT value FROM tally")).scalar_one() == 40


def test_waiting_for_a_lock_that_others_hold_ends(database: Database, database_url: str) -> None:
    with open_database(database_url, home=NOWHERE) as other:
        held = database.lock("k", timeout=0.05)
        with other.lock("k"), pytest.raises(DatabaseUnavailableError, match="held a lock too long"):
            held.__enter__()
        with database.lock("k", timeout=0.05) as connection:
            assert connection.execute(text("SHOW lock_timeout")).scalar_one() == "1min"
        with other.lock("k", timeout=0.05), database.lock("another", timeout=0.05):
            pass


def test_a_lock_whose_connection_was_cut_raises_at_its_end(database: Database, database_url: str) -> None:
    with pytest.raises(DatabaseUnavailableError, match="the connection was cut"), database.lock("k"):
        _terminate_all(database)
    with open_database(database_url, home=NOWHERE) as other, other.lock("k", timeout=0.05):
        pass


def test_the_holder_of_a_lock_sees_what_the_last_holder_wrote_whatever_the_servers_default(
    database: Database, database_url: str
) -> None:
    with database.engine.begin() as connection:
        connection.execute(text("CREATE TABLE tally AS SELECT 0 AS value"))
        name = database.url.database
        connection.execute(text(f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'"))
    with open_database(database_url, home=NOWHERE) as other, other.lock("k") as connection:
        assert connection.execute(text("SELECT value FROM tally")).scalar_one() == 0
        with database.engine.begin() as writer:
            writer.execute(text("UPDATE tally SET value = 1"))
        assert connection.execute(text("SELECT value FROM tally")).scalar_one() == 1


def test_a_pool_without_a_free_connection_raises_our_error(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options = Connector.engine_options
    monkeypatch.setattr(Connector, "engine_options", lambda self: {**options(self), "pool_timeout": 0.05})
    with (
        open_database(database_url, home=NOWHERE) as database,
        database.engine.connect(),
        database.engine.connect(),
        pytest.raises(DatabaseUnavailableError, match="no connection to the database came free in time"),
    ):
        database.now()


def test_an_exception_releases_the_lock(database: Database, database_url: str) -> None:
    with pytest.raises(KeyboardInterrupt), database.lock("k"):
        raise KeyboardInterrupt
    with open_database(database_url, home=NOWHERE) as other, other.lock("k", timeout=0.05):
        pass


def test_connecting_waits_for_a_server_that_is_just_starting(short_folder: Path, unused_port: int) -> None:
    """As in `docker compose up`: the worker starts before the database."""
    account, data = ServerAccount.of(short_folder / "data"), short_folder / "data"
    data.mkdir(mode=0o700)
    account.chown(data)

    def start() -> None:
        options = f"-h 127.0.0.1 -p {unused_port} -k {data} -c fsync=off"
        run_program("initdb", "-D", ".", "-U", "me", "--auth=trust", "-N", within=data, account=account)
        run_program("pg_ctl", "-D", ".", "-l", "log", "-o", options, "-w", "start", within=data, account=account)

    url = f"postgresql://me@127.0.0.1:{unused_port}/postgres"
    starter = threading.Thread(target=start)
    starter.start()
    try:
        with open_database(url, home=NOWHERE, start_timeout=60) as database:
            assert database.now()
    finally:
        starter.join()
        run_program("pg_ctl", "-D", ".", "-m", "immediate", "stop", within=data, account=account)


def test_waiting_for_a_server_ends(unused_port: int) -> None:
    begin = time.monotonic()
    with pytest.raises(DatabaseUnavailableError, match="no server listens there"):
        open_database(f"postgresql://me@127.0.0.1:{unused_port}/db", home=NOWHERE, start_timeout=0.3)
    assert 0.2 < time.monotonic() - begin < 10


def test_without_a_url_the_embedded_server_is_used_and_left(short_folder: Path) -> None:
    with open_database(None, home=short_folder / ".hpo") as database:
        assert str(database.url.query["host"]) == str(short_folder / ".hpo" / "postgres")
        database.initialise()
    assert not (short_folder / ".hpo" / "postgres" / "postmaster.pid").exists()


LIBPQ = {
    "PGSERVICE": "none-such",
    "PGHOST": "db.example",
    "PGHOSTADDR": "192.0.2.1",
    "PGPORT": "1",
    "PGUSER": "someone",
    "PGDATABASE": "elsewhere",
    "PGOPTIONS": "-c default_transaction_read_only=on",
    "PGPASSFILE": "/none/such",
    "PGSSLMODE": "verify-full",
    "PGREQUIREAUTH": "scram-sha-256",
    "PGCHANNELBINDING": "require",
    "PGREQUIREPEER": "someone",
    "PGTARGETSESSIONATTRS": "standby",
    "PGCLIENTENCODING": "LATIN1",
    "PGDATA": "/none/such",
}


def test_no_variable_of_libpq_reaches_the_embedded_server(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in LIBPQ.items():
        monkeypatch.setenv(name, value)
    with open_database(None, home=home, start_timeout=1) as database:
        database.initialise()
        with database.engine.connect() as connection:
            row = connection.exec_driver_sql("SELECT current_user, current_database(), 'ä'").one()
        assert tuple(row) == ("hpo", "postgres", "ä")
    assert {name: os.environ[name] for name in LIBPQ} == LIBPQ


@pytest.mark.parametrize(("name", "value"), [("PGOPTIONS", "-c work_mem=77kB"), ("PGSERVICE", "ours")])
def test_the_variables_of_libpq_reach_a_server_that_has_a_url(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    service = tmp_path / "services"
    service.write_text("[ours]\noptions=-c work_mem=77kB\n")
    monkeypatch.setenv("PGSERVICEFILE", str(service))
    monkeypatch.setenv(name, value)
    with open_database(database_url, home=tmp_path) as database, database.engine.connect() as connection:
        assert connection.exec_driver_sql("SHOW work_mem").scalar() == "77kB"


OTHERS = {
    "another alembic_version": "CREATE TABLE alembic_version AS SELECT 'bda7' AS version_num",
    "an empty one": "CREATE TABLE alembic_version (version_num text)",
    "studies of its own": "CREATE TABLE studies (id int, title text)",
    "trials of its own": "CREATE TABLE trials (id int)",
    "all of them": "CREATE TABLE studies (id int); CREATE TABLE trials (id int); CREATE TABLE version_info (v int)",
    "a view": "CREATE VIEW studies AS SELECT 1 AS id",
}


@pytest.mark.parametrize("tables", OTHERS.values(), ids=OTHERS)
def test_tables_of_another_program_are_refused_and_not_changed(empty_url: str, tables: str) -> None:
    with open_database(empty_url, home=NOWHERE) as database:
        with database.engine.begin() as connection:
            connection.exec_driver_sql(tables)
        before = _relations(database)
        for use in (database.initialise, database.require_schema, lambda: database.storage):
            with pytest.raises(StorageError, match=r"holds the tables of another program.*a database of its own"):
                use()
        assert _relations(database) == before


def test_tables_of_another_program_beside_optunas_are_refused(database: Database) -> None:
    with database.engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO alembic_version VALUES ('bda7b8c39065')")
    with pytest.raises(StorageError, match="bda7b8c39065"):
        database.initialise()


def test_tables_of_another_program_in_another_schema_do_no_harm(empty_url: str) -> None:
    with open_database(empty_url, home=NOWHERE) as database:
        with database.engine.begin() as connection:
            connection.exec_driver_sql(f"CREATE SCHEMA other; SET LOCAL search_path = other; {OTHERS['all of them']}")
        database.initialise()
        assert database.storage.get_all_studies() == []


def _relations(database: Database) -> list[str]:
    with database.engine.connect() as connection:
        return list(connection.exec_driver_sql("SELECT relname FROM pg_class ORDER BY relname").scalars())


@pytest.fixture
def limited(tcp_server: TcpServer) -> Iterator[Callable[[int], str]]:
    """URL of a database with a study `cells`, whose user may have a given number of connections."""
    name = f"limited_{uuid.uuid4().hex[:8]}"
    tcp_server.administer(f"CREATE ROLE {name} LOGIN PASSWORD 'Secret-1'", f"CREATE DATABASE {name} OWNER {name}")
    url = tcp_server.url(user=name, database=name)
    with open_database(url, home=NOWHERE) as database:
        database.initialise()
        optuna.create_study(study_name="cells", storage=database.storage)

    def limit(connections: int) -> str:
        tcp_server.administer(f"ALTER ROLE {name} CONNECTION LIMIT {connections}")
        return url

    yield limit
    tcp_server.administer(f"DROP DATABASE {name} WITH (FORCE)", f"DROP ROLE {name}")


def train_one(url: str, start_timeout: float, *, before_leaving: Callable[[], object] = lambda: None) -> int:
    """Use connections as a worker does: open, claim, keep the lease, read limits, tell."""
    with open_database(url, home=NOWHERE, start_timeout=start_timeout) as database:
        retry = RetryPolicy(start_timeout).run  # a worker that is still connecting may hold the second connection
        study = retry(lambda: open_study(database, "cells"))
        retry(database.require_schema)
        claim = retry(lambda: claim_trial(database, study, Worker()))
        assert isinstance(claim, Claim)
        trial = load_trial(study, claim)
        read_limits(study)
        retry(database.now)
        with LeaseSession(database.storage, claim.lease) as session:
            assert session.submit(lambda _: study.tell(trial, 0.5), ending="ended").wait(30)
        before_leaving()
        return claim.number


def test_a_worker_starts_and_works_within_two_connections(limited: Callable[[int], str]) -> None:
    assert train_one(limited(2), 0.0) == 0


def test_as_many_workers_as_the_limit_of_connections_allows_work_at_once(limited: Callable[[int], str]) -> None:
    url, both = limited(4), threading.Barrier(2)
    with ThreadPoolExecutor() as pool:
        done = [pool.submit(train_one, url, 20.0, before_leaving=lambda: both.wait(20)) for _ in range(2)]
        assert sorted(one.result(timeout=30) for one in done) == [0, 1]


def test_workers_above_the_limit_of_connections_hold_none_report_it_and_work_later(
    limited: Callable[[int], str], caplog: pytest.LogCaptureFixture
) -> None:
    url = limited(2)
    with ThreadPoolExecutor() as pool:
        done = [pool.submit(train_one, url, 20.0, before_leaving=lambda: time.sleep(0.3)) for _ in range(3)]
        assert sorted(one.result(timeout=30) for one in done) == [0, 1, 2]
    assert "all its connections are taken" in caplog.text
