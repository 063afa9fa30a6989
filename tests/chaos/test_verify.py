"""The verifier counts each kind of damage, made by plain SQL, under the right name."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from sqlalchemy import text

from storage import Database, Worker
from storage.leases import grant
from tests.chaos import audit
from tests.chaos.sql import Sql
from tests.chaos.verify import Curve, Verdict, judge, read_curves, same_bits

pytestmark = pytest.mark.postgres

# Three trials of two epochs as a campaign leaves them, each with its lease and one parameter.
_STUDY = """
INSERT INTO studies (study_id, study_name) VALUES (1, 'chaos');
INSERT INTO trials (trial_id, number, study_id, state, datetime_start)
    SELECT n + 1, n, 1, 'WAITING', now() FROM generate_series(0, 2) n;
"""
_LIFE = """
INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json)
    SELECT trial_id, 'learning_rate', number / 7.0::double precision, '{}' FROM trials;
INSERT INTO trial_intermediate_values (trial_id, step, intermediate_value, intermediate_value_type)
    SELECT trial_id, step, number + step / 3.0::double precision, 'FINITE' FROM trials, generate_series(1, 2) step;
BEGIN;
UPDATE trials SET state = 'COMPLETE';
INSERT INTO trial_values (trial_id, objective, value, value_type) SELECT trial_id, 0, number, 'FINITE' FROM trials;
UPDATE hpo_leases SET state = 'ended';
COMMIT;
"""


@pytest.fixture
def sql(database: Database) -> Sql:
    """Return a watched database with a study without faults."""
    sql = Sql(_plain(database))
    audit.install(sql)
    sql(_STUDY)
    with database.engine.begin() as connection:
        connection.execute(text("UPDATE trials SET state = 'RUNNING'"))
        for trial in (1, 2, 3):
            grant(connection, 1, trial, Worker())
    sql(_LIFE)
    return sql


def _plain(database: Database) -> str:
    query = dict(database.url.query)
    return f"host={query['host']} port={query['port']} user={database.url.username} dbname={database.url.database}"


@pytest.fixture
def expected(sql: Sql) -> Mapping[int, Curve]:
    return {curve.number: curve for curve in read_curves(sql)}


def _counted(verdict: Verdict) -> dict[str, int]:
    return {name: count for name, count in verdict.counts().items() if count}


def test_a_study_without_faults_has_no_counts(sql: Sql, expected: Mapping[int, Curve]) -> None:
    verdict = judge(sql, expected)
    assert not _counted(verdict)
    assert not verdict.details
    assert expected[1].reports == {1: 1 + 1 / 3, 2: 1 + 2 / 3}


_RUN = "UPDATE trials SET state = 'RUNNING' WHERE number = 1"
_WAIT = "UPDATE trials SET state = 'WAITING' WHERE number = 1"
_HOLD = "UPDATE hpo_leases SET state = 'held' WHERE trial_id = 2"
_REPORT = "INSERT INTO trial_intermediate_values VALUES (99, 2, 3, 0.5, 'FINITE')"
_FORGET = "; ".join(
    f"DELETE FROM {table} WHERE trial_id = 2" for table in ("trial_params", "trial_values", "trial_intermediate_values")
)
_ONE_MORE = "INSERT INTO trials (trial_id, number, study_id, state) VALUES (9, 3, 1, 'COMPLETE')"
_DIFFERS = {"reports differing from the fault-free run": 1}


@pytest.mark.parametrize(
    ("damage", "counted"),
    [
        (f"{_FORGET}; DELETE FROM trials WHERE trial_id = 2", {"lost": 1}),
        ("UPDATE trials SET number = 0 WHERE number = 1", {"lost": 1, "duplicated": 1, **_DIFFERS}),
        ("UPDATE trial_params SET param_value = 0 WHERE trial_id = 2", {"duplicated": 1, **_DIFFERS}),
        (f"{_WAIT}; UPDATE trials SET state = 'COMPLETE' WHERE number = 1", {"duplicated": 1}),
        ("UPDATE trial_intermediate_values SET step = step WHERE trial_id = 2 AND step = 1", {"duplicated": 1}),
        (_WAIT, {"stuck": 1}),
        (f"{_HOLD}; {_RUN}", {"stuck": 1}),
        (_RUN, {"stuck": 1, "running without a lease": 1}),
        (
            f"BEGIN; {_HOLD}; {_RUN}; COMMIT; DELETE FROM hpo_leases WHERE trial_id = 2",
            {"stuck": 1, "running without a lease": 1},
        ),
        ("DELETE FROM trial_intermediate_values WHERE trial_id = 2 AND step = 1", _DIFFERS),
        (_REPORT, _DIFFERS),
        ("UPDATE trial_values SET value = value + 1e-15 WHERE trial_id = 2", _DIFFERS),
        ("UPDATE trial_params SET param_value = 0.5 WHERE trial_id = 2", _DIFFERS),
        ("UPDATE trials SET state = 'PRUNED' WHERE number = 1", {"duplicated": 1, **_DIFFERS}),
        (_ONE_MORE, {"trials beyond the cap": 1}),
    ],
)
def test_damage_is_counted_under_the_right_name(
    sql: Sql, expected: Mapping[int, Curve], damage: str, counted: dict[str, int]
) -> None:
    sql(damage)
    assert {name: bool(count) for name, count in _counted(judge(sql, expected)).items()} == {
        name: bool(count) for name, count in counted.items()
    }


def test_a_report_that_is_off_by_its_last_bit_differs(sql: Sql, expected: Mapping[int, Curve]) -> None:
    sql("UPDATE trial_intermediate_values SET intermediate_value = 1.3333333333333335 WHERE trial_id = 2 AND step = 1")
    verdict = judge(sql, expected)
    assert verdict.differing == 1
    assert "epoch 1" in verdict.details[-1] + verdict.details[0]


def test_a_failed_trial_counts_unless_it_also_fails_without_faults(sql: Sql, expected: Mapping[int, Curve]) -> None:
    sql("UPDATE trials SET state = 'WAITING' WHERE number = 1")
    sql("DELETE FROM chaos_audit; UPDATE trials SET state = 'FAIL' WHERE number = 1")
    assert _counted(judge(sql, expected)) == {"wrongly failed": 1}
    failing = {curve.number: curve for curve in read_curves(sql)}
    assert not _counted(judge(sql, failing))


def test_nan_equals_itself_and_a_missing_value_is_not_zero() -> None:
    assert same_bits(float("nan"), float("nan"))
    assert same_bits(None, None)
    assert not same_bits(None, 0.0)
    assert not same_bits(0.0, -0.0)
