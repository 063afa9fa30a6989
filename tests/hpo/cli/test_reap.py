"""`hpo reap`: trials of dead workers are requeued, living workers keep theirs."""

from __future__ import annotations

import re
from collections.abc import Callable

import optuna
import pytest
from click.testing import Result
from optuna.trial import TrialState

from storage import Claim, Database, Worker, claim_trial

pytestmark = pytest.mark.postgres
Here = Callable[..., Result]


def claim(database: Database, study: optuna.Study, pid: int) -> int:
    found = claim_trial(database, study, Worker(device="cuda:1", host="node-7", pid=pid, seconds=60))
    assert isinstance(found, Claim)
    return found.number


def states(study: optuna.Study) -> list[TrialState]:
    return [trial.state for trial in study.get_trials(deepcopy=False)]


def test_only_the_trial_of_the_named_dead_worker_is_requeued(
    here: Here, database: Database, bare_study: optuna.Study
) -> None:
    assert here("reap", "--study", "bare").stdout == "nothing to requeue\n"
    claim(database, bare_study, 1)
    claim(database, bare_study, 2)
    result = here("reap", "--study", "bare", "--owner", "node-7:1")
    assert result.exit_code == 0
    ended, requeued, held = result.stdout.splitlines()
    assert ended == "node-7:1: 1 lease ended"
    assert requeued == "trial 0 is requeued; the next worker continues it"
    assert re.match(r"trial 1 is held by node-7:2 \(cuda:1\), renewed \d+ s ago; its lease lasts ", held)
    assert states(bare_study) == [TrialState.WAITING, TrialState.RUNNING]
    again = here("reap", "--study", "bare", "--owner", "node-7:1").stdout
    assert again.startswith("node-7:1 holds no trial of this study\nnothing to requeue\n")


def test_a_trial_that_kills_worker_after_worker_fails(here: Here, database: Database, bare_study: optuna.Study) -> None:
    for pid in (1, 2, 3):
        assert claim(database, bare_study, pid) == 0
        last = here("reap", "--study", "bare", "--owner", f"node-7:{pid}").stdout
    assert "trial 0 has failed: worker after worker died of it" in last
    assert states(bare_study) == [TrialState.FAIL]


def test_a_trial_without_a_lease_is_requeued(here: Here, bare_study: optuna.Study) -> None:
    bare_study.ask()
    assert "trial 0 is requeued" in here("reap", "--study", "bare").stdout
    assert states(bare_study) == [TrialState.WAITING]


def test_an_expired_lease_is_not_reported_as_alive(here: Here, database: Database, bare_study: optuna.Study) -> None:
    claim(database, bare_study, 1)
    with database.engine.begin() as connection:  # as after a start of the server, which extends every lease
        connection.exec_driver_sql("UPDATE hpo_leases SET deadline = now() - interval '5 s', seconds = 1e6")
    result = here("reap", "--study", "bare")
    assert "whose lease expired" in result.stdout
    assert "`hpo reap --study bare --owner node-7:1` puts the trial back now" in result.stdout
    assert states(bare_study) == [TrialState.RUNNING]


@pytest.mark.parametrize("owner", ["node-7", "node-7:", ":7", "node-7:x"])
def test_an_invalid_owner_is_refused(here: Here, bare_study: optuna.Study, owner: str) -> None:
    result = here("reap", "--study", "bare", "--owner", owner)
    assert result.exit_code == 2
    assert "write HOST:PID" in result.stderr
