"""A database that is used again is as a new one; one of which anything else was changed is not used again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import psycopg2
import pytest
from sqlalchemy import make_url

from storage import Claim, Worker, claim_trial, create_study, open_database
from storage.spec import StudySpec
from tests.reused_databases import ReusedDatabases

pytestmark = pytest.mark.postgres


@pytest.fixture(scope="module")
def databases(databases_of_tests: ReusedDatabases) -> Iterator[ReusedDatabases]:
    """Yield databases of the same server of which no other test has any."""
    other = ReusedDatabases(databases_of_tests.server, template="template_of_reuse")
    yield other
    other.close()


def connect(url: str) -> Any:
    parts = make_url(url)
    session = psycopg2.connect(user=parts.username, dbname=parts.database, **parts.query)
    session.autocommit = True
    return session


def ask(url: str, statement: str) -> list[tuple[Any, ...]]:
    with closing(connect(url)) as session, session.cursor() as cursor:
        cursor.execute(statement)
        return list(cursor.fetchall()) if cursor.description else []


OID = "SELECT oid FROM pg_database WHERE datname = current_database()"


def test_the_rows_of_a_test_are_gone_and_ids_and_tokens_begin_again(databases: ReusedDatabases) -> None:
    def use(url: str) -> tuple[Any, ...]:
        with open_database(url, home=Path("unused")) as database:
            study = create_study(database, "cells", _spec())
            study.enqueue_trial({"x": 0.5})
            claim = claim_trial(database, study, Worker(device="cpu"))
            assert isinstance(claim, Claim)
            study.add_trial(optuna.trial.create_trial(value=0.5, user_attrs={"a": 1}, intermediate_values={1: 0.5}))
            return claim.lease.trial_id, claim.lease.token, study._study_id, len(study.trials), *ask(url, OID)

    seen = []
    for _ in range(2):
        with databases.one() as url:
            seen.append((url, use(url)))
    (one, first), (other, second) = seen
    assert one != other, "what is remembered by URL is not found again"
    assert first == second, "the same database, in which everything has the number that it had"


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE kept (answer int)",
        "DROP TABLE hpo_leases CASCADE",
        "CREATE INDEX further ON trials (number)",
        "ALTER TABLE trials ADD COLUMN further int",
        "UPDATE alembic_version SET version_num = 'v2.6.0.a'",
        "UPDATE hpo_schema SET version = 1",
        "REVOKE CONNECT ON DATABASE {name} FROM PUBLIC",
        "ALTER DATABASE {name} SET timezone = 'Asia/Tokyo'",
        "GRANT SELECT ON trials TO PUBLIC",
    ],
)
def test_a_database_that_was_changed_otherwise_is_dropped(databases: ReusedDatabases, statement: str) -> None:
    with databases.one() as url:
        before = ask(url, OID)
        ask(url, statement.format(name=make_url(url).database))
    with databases.one() as url:
        assert ask(url, OID) != before


def test_a_session_that_a_test_left_is_ended_and_its_url_leads_nowhere(databases: ReusedDatabases) -> None:
    with databases.one() as url:
        left = connect(url)
    with pytest.raises(psycopg2.Error):
        left.cursor().execute("SELECT 1")
    with pytest.raises(psycopg2.OperationalError, match="does not exist"):
        connect(url)


def _spec() -> StudySpec:
    return StudySpec(
        space={}, space_fingerprint="0", data={}, data_fingerprint="0", metric="accuracy", seed=0, weights_digest=None,
        sampler="random", pruner="none",
    )  # fmt: skip
