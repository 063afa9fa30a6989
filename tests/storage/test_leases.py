"""Leases: granted, fenced, expired by the database's clock, claimed again; poison trials are failed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from sqlalchemy import text

from storage import (
    Claim,
    Database,
    LeaseLostError,
    LeaseSession,
    Limits,
    NoTrial,
    StudySpec,
    Worker,
    advance,
    claim_trial,
    create_study,
    expire_dead_neighbours,
    expire_leases,
    lease_infos,
    open_database,
    open_study,
    reap,
    write_limits,
)
from storage.leases import DEATHS
from tests.storage.conftest import claimed

pytestmark = pytest.mark.postgres


@pytest.fixture
def study(database: Database, spec: StudySpec) -> optuna.Study:
    return create_study(database, "cells", spec)


def lose(database: Database, study: optuna.Study) -> None:
    """Let the lease of a trial expire, as after the death of its worker."""
    with database.engine.begin() as connection:
        connection.execute(
            text(
                "UPDATE hpo_leases SET deadline = clock_timestamp() - interval '1 s', seconds = 0 "
                "WHERE study_id = :study AND state = 'held'"
            ),
            {"study": study._study_id},
        )


def test_the_trial_of_an_expired_lease_is_claimed_before_any_other(database: Database, study: optuna.Study) -> None:
    study.enqueue_trial({"x": 0.5})
    first = claimed(database, study)
    lose(database, study)
    again = claimed(database, study)
    assert (again.number, again.lease.deaths) == (first.number, 1)
    assert again.lease.token > first.lease.token


def test_the_trial_of_an_expired_lease_is_claimed_even_if_the_budget_is_spent(
    database: Database, study: optuna.Study
) -> None:
    write_limits(study, Limits(trials=1))
    claimed(database, study)
    assert claim_trial(database, study, Worker()) is NoTrial.OTHERS
    lose(database, study)
    assert claimed(database, study).number == 0


def test_a_valid_lease_cannot_be_claimed(database: Database, study: optuna.Study) -> None:
    assert [claimed(database, study).number for _ in range(3)] == [0, 1, 2]


def test_after_a_restart_of_the_server_every_holder_has_time_to_renew(database: Database, study: optuna.Study) -> None:
    claimed(database, study)
    with database.engine.begin() as connection:  # expired, but the server was started less than a lease ago
        connection.execute(
            text("UPDATE hpo_leases SET deadline = clock_timestamp() - interval '1 h', seconds = 3600 * 24 * 365")
        )
    assert claimed(database, study).number == 1


def test_no_write_of_a_worker_that_lost_the_lease_is_accepted(
    database: Database, database_url: str, study: optuna.Study
) -> None:
    claim = claimed(database, study)
    study.get_trials()
    trial = optuna.Trial(study, claim.lease.trial_id)
    with LeaseSession(database.storage, claim.lease):
        trial.suggest_float("x", 0, 1)
        trial.report(0.1, step=1)
    lose(database, study)
    with open_database(database_url, home=Path("unused")) as other:
        claimed(other, open_study(other, "cells"))
    for write in (
        lambda: trial.suggest_float("y", 0, 1),
        lambda: trial.report(0.9, step=2),
        lambda: trial.set_user_attr("seed", 1),
        lambda: study._storage.set_trial_system_attr(trial._trial_id, "completed_rung_0", 0.9),
        lambda: study.tell(trial, 0.9),
        lambda: study.tell(trial, state=TrialState.FAIL),
    ):
        with pytest.raises(LeaseLostError):
            write()
    (frozen,) = study.get_trials()
    assert (frozen.state, frozen.intermediate_values, frozen.user_attrs) == (TrialState.RUNNING, {1: 0.1}, {})
    assert list(frozen.params) == ["x"]


def test_a_trial_that_kills_three_workers_in_a_row_is_failed_with_the_reason(
    database: Database, study: optuna.Study
) -> None:
    write_limits(study, Limits(trials=1))
    for death in range(DEATHS):
        assert claimed(database, study).lease.deaths == death
        lose(database, study)
    assert claim_trial(database, study, Worker()) is NoTrial.SPENT
    (trial,) = study.get_trials()
    assert trial.state == TrialState.FAIL
    assert "its worker died 3 times without an epoch between" in trial.user_attrs["reason"]


def test_an_epoch_between_resets_the_count_of_lost_workers(database: Database, study: optuna.Study) -> None:
    for _ in range(2 * DEATHS):
        claim = claimed(database, study)
        assert claim.number == 0
        with database.storage.transaction(claim.lease.fence) as connection:
            advance(connection, claim.lease, claim.lease.position + 1, {"epoch": 1})
        lose(database, study)
    assert study.get_trials()[0].state == TrialState.RUNNING


def test_the_leases_of_a_process_that_has_ended_expire_at_once(database: Database, study: optuna.Study) -> None:
    gone, other = Worker(pid=1_000_001), Worker(pid=1_000_002)
    orphan, kept = claimed(database, study, gone), claimed(database, study, other)
    assert expire_leases(database, study, Worker(pid=1_000_001)) == 1
    assert claimed(database, study).number == orphan.number
    assert [holding.owner for holding in lease_infos(database, study)][kept.number] == str(other)


def test_reaping_requeues_orphans_and_running_trials_without_a_lease(database: Database, study: optuna.Study) -> None:
    orphan = claimed(database, study)
    lose(database, study)
    kept, stray = claimed(database, study), study.ask()
    assert (kept.number, stray.number) == (orphan.number, 1)
    lose(database, study)
    alive = claim_trial(database, study, Worker())
    assert isinstance(alive, Claim)
    reaped = reap(database, study)
    assert (reaped.requeued, reaped.failed) == ((1,), ())
    states = [trial.state for trial in study.get_trials()]
    assert states == [TrialState.RUNNING, TrialState.WAITING]
    assert reap(database, study).requeued == ()


def test_reaping_fails_a_poison_trial(database: Database, study: optuna.Study) -> None:
    for _ in range(DEATHS - 1):
        claimed(database, study)
        lose(database, study)
    claimed(database, study)
    lose(database, study)
    assert reap(database, study).failed == (0,)
    assert study.get_trials()[0].state == TrialState.FAIL


def test_a_trial_that_another_program_finished_is_not_changed(database: Database, study: optuna.Study) -> None:
    claim = claimed(database, study)
    study._storage.set_trial_state_values(claim.lease.trial_id, TrialState.COMPLETE, [0.5])  # a user of a dashboard
    lose(database, study)
    assert claimed(database, study).number == 1
    assert [holding.state for holding in lease_infos(database, study)] == ["ended", "held"]


def test_lease_infos_name_worker_trial_and_time_left(database: Database, study: optuna.Study) -> None:
    worker = Worker(device="cuda:1", host="node-7", pid=42, seconds=30)
    claimed(database, study, worker)
    (holding,) = lease_infos(database, study)
    assert (holding.number, holding.owner, holding.device, holding.state) == (0, "node-7:42", "cuda:1", "held")
    assert 0 <= holding.age < 20
    assert 10 < holding.left <= 30
    assert (holding.attempts, holding.redone, holding.deaths) == (1, 0.0, 0)


def test_trials_that_an_earlier_version_left_running_are_claimed(database: Database, study: optuna.Study) -> None:
    with database.engine.begin() as connection:
        for statement in ("DROP TABLE hpo_openings, hpo_leases, hpo_studies, hpo_schema", "DROP SEQUENCE hpo_tokens",
                          "DROP INDEX hpo_trials_of_study"):  # fmt: skip
            connection.execute(text(statement))
    left = study.ask()
    assert not database.is_initialised()
    database.initialise()
    assert database.is_initialised()
    assert claimed(database, study).number == left.number
    assert claimed(database, study).number == left.number + 1


def test_deleting_a_study_deletes_its_leases(database: Database, study: optuna.Study) -> None:
    claimed(database, study)
    optuna.delete_study(study_name="cells", storage=database.storage)
    with database.engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM hpo_leases")).scalar_one() == 0


def test_only_the_leases_of_dead_processes_of_this_machine_are_expired(database: Database, study: optuna.Study) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    claimed(database, study, Worker(pid=dead.pid))
    claimed(database, study, Worker(pid=dead.pid, place="another boot or another container of the same name"))
    claimed(database, study, Worker())
    assert expire_dead_neighbours(database, study) == 1
    assert [holding.left > 0 for holding in lease_infos(database, study)] == [False, True, True]
