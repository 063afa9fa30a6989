"""`hpo doctor` and other commands for a database user who may read and not write."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hpo.cli import main
from storage import StudySpec, create_study, open_database
from tests.conftest import TcpServer

pytestmark = pytest.mark.postgres
Run = Callable[..., Result]


@pytest.fixture
def spec() -> StudySpec:
    space = {
        "name": "bare", "summary": "", "fixed": {}, "points": [],
        "dimensions": {"learning_rate": {"type": "float", "low": 1e-3, "high": 1e-2}},
    }  # fmt: skip
    return StudySpec(
        space=space, space_fingerprint="0", data={}, data_fingerprint="0", metric="accuracy", seed=0,
        weights_digest=None, sampler="random", pruner="none",
    )  # fmt: skip


@pytest.fixture
def reader(tcp_server: TcpServer, spec: StudySpec, tmp_path: Path) -> Iterator[Run]:
    """Yield `hpo COMMAND` on a study `bare` as a user who may read every table and write none."""
    name = f"reader_{uuid.uuid4().hex[:8]}"
    tcp_server.administer(f"CREATE ROLE {name} LOGIN PASSWORD 'Secret-1'", f"CREATE DATABASE {name}")
    with open_database(tcp_server.url(database=name), home=tmp_path) as database:
        database.initialise()
        create_study(database, "bare", spec)
        with database.engine.begin() as connection:
            connection.exec_driver_sql(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {name}")
    url = tcp_server.url(user=name, database=name)

    def run(command: str, *arguments: str) -> Result:
        environment = {"HPO_STORAGE": url, "HPO_HOME": str(tmp_path), "HPO_STUDY": None}
        return CliRunner(env=environment).invoke(main, [command, "--study", "bare", *arguments])

    yield run
    tcp_server.administer(f"DROP DATABASE {name} WITH (FORCE)", f"DROP ROLE {name}")


def test_a_user_who_may_only_read_sees_the_status(reader: Run) -> None:
    done = reader("status", "--json")
    assert done.exit_code == 0, done.output
    assert '"study": "bare"' in done.stdout


@pytest.mark.parametrize("command", ["reap", "pause", "stop"])
def test_a_command_that_writes_names_the_missing_rights(reader: Run, command: str) -> None:
    done = reader(command)
    assert done.exit_code == 2, done.output
    (line,) = done.stderr.splitlines()
    assert "permission denied for table " in line
    assert "grant it SELECT, INSERT, UPDATE and DELETE on all tables" in line


def test_the_doctor_names_the_missing_rights_and_the_statement_that_grants_them(reader: Run) -> None:
    done = reader("doctor", "--device", "cpu")
    assert done.exit_code == 1
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("!!") and " schema " in line]
    assert "it lacks INSERT, UPDATE, DELETE, USAGE on " in line
    assert "hpo_leases" in line
    assert "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO reader_" in line
