"""Behind a PgBouncer that pools transactions: the bounds hold in our transactions and in no other program's."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import optuna
import psycopg2
import pytest

from storage import Claim, LeaseSession, StudySpec, Worker, claim_trial, create_study, load_trial, open_database
from tests.conftest import TcpServer, free_port

pytestmark = pytest.mark.postgres
PROGRAM = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
NOWHERE = Path("unused")


@dataclass(frozen=True)
class Pooler:
    """A pooler that gives every client the user `admin`, and all of them three connections to the server."""

    port: int

    def url(self, database: str) -> str:
        return f"postgresql://admin:Secret-1@127.0.0.1:{self.port}/{database}"


@pytest.fixture(scope="module")
def pooler(tcp_server: TcpServer) -> Iterator[Pooler]:
    if PROGRAM is None:
        pytest.skip("pgbouncer is not installed")
    folder, port = Path(tempfile.mkdtemp(prefix="hpo-pooler-")), free_port()
    folder.chmod(0o755)
    server = f"host=127.0.0.1 port={tcp_server.port} user=admin password=Secret-1"
    (folder / "users").write_text('"admin" "Secret-1"\n')
    (folder / "config").write_text(
        f"[databases]\n* = {server}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = plain\nauth_file = {folder / 'users'}\npool_mode = transaction\ndefault_pool_size = 3\n"
    )
    account = "nobody" if os.getuid() == 0 else None  # it refuses to be root
    command = [PROGRAM, str(folder / "config")]
    with subprocess.Popen(command, user=account, stderr=subprocess.PIPE, text=True) as process:
        try:
            pooler = Pooler(port)
            _wait_until_it_answers(pooler, process)
            yield pooler
        finally:
            process.terminate()
    shutil.rmtree(folder)


def _wait_until_it_answers(pooler: Pooler, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            psycopg2.connect(pooler.url("postgres")).close()
        except psycopg2.OperationalError:
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                pytest.fail(f"pgbouncer does not start here: {process.communicate()[1][-300:]}")
            time.sleep(0.05)
        else:
            return


@pytest.fixture
def pooled_url(pooler: Pooler, tcp_server: TcpServer) -> str:
    tcp_server.administer("DROP DATABASE IF EXISTS pooled WITH (FORCE)", "CREATE DATABASE pooled")
    return pooler.url("pooled")


def others(url: str, setting: str) -> str:
    """Return the settings that another program finds through the same pooler."""
    session = psycopg2.connect(url)
    with session, session.cursor() as cursor:
        cursor.execute(f"SHOW {setting}")
        (value,) = cursor.fetchone()
    session.close()
    return str(value)


def test_a_trial_from_claim_to_end(pooled_url: str, spec: StudySpec) -> None:
    with open_database(pooled_url, home=NOWHERE) as database:
        database.initialise()
        study = create_study(database, "cells", spec)
        for number in range(3):
            claim = claim_trial(database, study, Worker())
            assert isinstance(claim, Claim)
            trial = load_trial(study, claim)
            trial.suggest_float("x", 0, 1)
            with LeaseSession(database.storage, claim.lease) as session:
                assert session.submit(lambda _: study.tell(trial, 0.5), ending="ended").wait(30)  # noqa: B023
            assert claim.number == number
    assert [trial.state.name for trial in _trials(pooled_url)] == ["COMPLETE"] * 3


def _trials(url: str) -> list[optuna.trial.FrozenTrial]:
    with open_database(url, home=NOWHERE) as database:
        return optuna.load_study(study_name="cells", storage=database.storage).trials


@pytest.mark.parametrize("setting", ["statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"])
def test_the_bounds_hold_in_every_transaction_of_ours_and_in_none_of_others(
    pooled_url: str, tcp_server: TcpServer, setting: str
) -> None:
    direct = tcp_server.url(database="pooled")
    with open_database(pooled_url, home=NOWHERE) as database, open_database(direct, home=NOWHERE) as near:
        database.initialise()
        for one in (database, near):
            for engine in (one.engine, one.storage.engine):
                with engine.connect() as connection:
                    assert connection.exec_driver_sql(f"SHOW {setting}").scalar_one() in ("1min", "2min")
                    assert connection.exec_driver_sql("SHOW timezone").scalar_one() == "UTC"
        assert {others(pooled_url, setting) for _ in range(5)} == {"0"}
