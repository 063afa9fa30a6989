"""The last rung of a study: which trials are trained again, when, and that a claim decides it as a whole."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState

import storage.trials
from storage import (
    Claim,
    Confirmation,
    Convergence,
    Database,
    LeaseSession,
    Limits,
    NoTrial,
    StudyError,
    StudySpec,
    Worker,
    claim_trial,
    create_study,
    load_trial,
    open_database,
    open_study,
    read_limits,
    write_limits,
)
from storage.confirmation import MeasuredTrial, Remaining, next_replicate, unconfirmed
from tests.storage.conftest import claimed

ASKED = Confirmation(3)


def complete(number: int, value: float, seconds: float = 60.0, **more: Any) -> MeasuredTrial:
    return MeasuredTrial(100 + number, number, "COMPLETE", value, seconds, **more)


def searched(count: int, **more: Any) -> list[MeasuredTrial]:
    """Return complete trials, each better than the one before."""
    return [complete(number, number / 100, **more) for number in range(count)]


@pytest.mark.parametrize(
    ("confirmation", "trials", "expected"),
    [
        (Confirmation(3), 50, 3),
        (Confirmation(3), 4, 2),
        (Confirmation(3), 1, 0),
        (Confirmation(3), None, 3),
        (Confirmation(0), 50, 0),
        (Confirmation(3, asked=False), 50, 3),
        (Confirmation(3, asked=False), 14, 2),
        (Confirmation(3, asked=False), 11, 0),
        (Confirmation(3, asked=False), None, 3),
    ],
)
def test_the_budget_bounds_what_is_trained_again(confirmation: Confirmation, trials: int | None, expected: int) -> None:
    assert confirmation.within(trials) == expected


def test_a_negative_number_is_refused() -> None:
    with pytest.raises(StudyError, match="confirm is -1, but must be 0 or more"):
        Confirmation(-1)


def test_the_best_configurations_without_a_second_trial_are_unconfirmed() -> None:
    trials = [*searched(5), complete(5, 0.01, replicate_of=4), MeasuredTrial(106, 6, "RUNNING", replicate_of=3)]
    # The mean of trials 4 and 5 is 0.025, so the best three are 3 (0.03), 4 and 2 (0.02).
    assert [one.number for one in unconfirmed(trials, 3)] == [2]
    assert [one.number for one in unconfirmed(trials, 4)] == [2, 1]


def test_a_trial_that_the_deadline_cut_short_neither_confirms_nor_is_confirmed() -> None:
    trials = [complete(0, 0.9, cut_short=True), complete(1, 0.8), complete(2, 0.85, replicate_of=1, cut_short=True)]
    assert [one.number for one in unconfirmed(trials, 2)] == [1]


@pytest.mark.parametrize(("left", "expected"), [(4, None), (3, 9), (1, 9)])
def test_the_rung_takes_the_last_trials_of_the_budget(left: int, expected: int | None) -> None:
    found = next_replicate(ASKED, 20, searched(10), Remaining(left))
    assert (found and found.number) == expected


def test_replicates_of_an_earlier_rung_count() -> None:
    """After a study went on with a larger budget, only what became the best since is trained again."""
    trials = [*searched(10), *(complete(10 + i, 0.09, replicate_of=9 - i) for i in range(3)), complete(13, 0.5)]
    assert next_replicate(ASKED, 20, trials, Remaining(2)) is None, "one is lacking, two are left: search on"
    found = next_replicate(ASKED, 20, trials, Remaining(1))
    assert found is not None
    assert found.number == 13


@pytest.mark.parametrize(
    ("seconds", "workers", "due"), [(241, 1, False), (239, 1, True), (181, 2, False), (179, 2, True), (59, 1, False)]
)
def test_with_a_deadline_the_rung_begins_when_a_further_trial_would_leave_too_little_time(
    seconds: float, workers: int, due: bool
) -> None:
    """Three replicates of 60 s: 180 s by one worker, 120 s by two, and 60 s for the trial that would come first."""
    found = next_replicate(ASKED, None, searched(20), Remaining(None, seconds, workers))
    assert (found is not None) is due, "what cannot reach its last epoch is not begun"


def test_a_rung_goes_on_where_its_first_replicate_was_faster_than_expected() -> None:
    trials = [*searched(20), complete(20, 0.2, seconds=20.0, replicate_of=19)]
    assert next_replicate(ASKED, None, trials, Remaining(None, 200.0)) is not None
    assert next_replicate(ASKED, None, searched(20), Remaining(None, 260.0)) is None


def test_by_default_replicates_take_a_fifth_of_the_time() -> None:
    default = Confirmation(3, asked=False)
    few = [*searched(11), MeasuredTrial(111, 11, "PRUNED")]
    assert next_replicate(default, 50, few, Remaining(30, 100.0)) is None, "fewer than 12 have told anything"
    # 12 trials of 10 s and the two best of 60 s: 240 s, a quarter of which pays for one replicate of 60 s.
    trials = [*searched(12, seconds=10.0), *(complete(12 + i, 0.5 + i / 100) for i in range(2))]
    found = next_replicate(default, 50, trials, Remaining(30, 75.0))
    assert found is not None
    assert found.number == 13
    after = [*trials, complete(14, 0.5, replicate_of=13)]
    assert next_replicate(default, 50, after, Remaining(29, 70.0)) is None


@given(
    values=st.lists(st.floats(0, 1), min_size=4, max_size=12),
    top=st.integers(1, 4),
    workers=st.integers(1, 3),
    data=st.data(),
)
def test_no_budget_is_exceeded_and_no_configuration_repeated_twice_in_a_rung(
    values: list[float], top: int, workers: int, data: st.DataObject
) -> None:
    """Claims and ends in any order: at the end there are as many trials as allowed, replicates among the last."""
    most, running = len(values), []
    trials: list[MeasuredTrial] = []
    while len(trials) < most or running:
        if len(trials) < most and len(running) < workers and (not running or data.draw(st.booleans())):
            found = next_replicate(Confirmation(top), most, trials, Remaining(most - len(trials)))
            number = len(trials)
            trials.append(MeasuredTrial(number, number, "RUNNING", replicate_of=found.original if found else None))
            running.append(number)
        else:
            number = running.pop(data.draw(st.integers(0, len(running) - 1)))
            trials[number] = complete(number, values[number], replicate_of=trials[number].replicate_of)
    again = Counter(one.replicate_of for one in trials if one.replicate_of is not None)
    assert len(trials) == most
    assert all(count == 1 for count in again.values())
    assert again.total() <= Confirmation(top).within(most)


# In the database


@pytest.fixture
def study(database: Database, spec: StudySpec) -> optuna.Study:
    return create_study(database, "cells", spec)


def train(db: Database, study: optuna.Study, claim: Claim) -> None:
    """Train a claimed trial: its value is its learning rate, with a little noise."""
    trial = load_trial(study, claim)
    rate = trial.suggest_float("x", 0, 1)
    trial.set_user_attr("seconds", 60.0)
    with LeaseSession(db.storage, claim.lease) as session:
        assert session.submit(lambda _: study.tell(trial, rate + claim.number / 1e6), ending="ended").wait(30)


def train_all(url: str) -> int:
    count = 0
    with open_database(url, home=Path("unused")) as db:
        study, worker = open_study(db, "cells"), Worker()
        while isinstance(claim := claim_trial(db, study, worker), Claim):
            train(db, study, claim)
            count += 1
    return count


def originals(study: optuna.Study) -> dict[int, int]:
    marked = {trial.number: trial.user_attrs.get("replicate_of") for trial in study.get_trials()}
    return {number: original for number, original in marked.items() if original is not None}


@pytest.mark.postgres
def test_the_cap_stays_exact_with_replicates_by_four_processes(
    database: Database, database_url: str, study: optuna.Study, at_once: Any
) -> None:
    write_limits(study, Limits(trials=17, confirm=ASKED))
    assert sum(at_once(4, train_all, database_url)) == 17
    trials = {trial.number: trial for trial in study.get_trials()}
    assert sorted(trials) == list(range(17))
    again = originals(study)
    assert len(again) == 3
    assert min(again) >= 14
    assert len(set(again.values())) == 3, "each of the best once"
    assert all(trials[number].params == trials[original].params for number, original in again.items())


@pytest.mark.postgres
def test_a_resumed_study_confirms_what_is_the_best_then(database: Database, study: optuna.Study) -> None:
    worker = Worker()
    for most, expected in ((6, 2), (10, None)):
        write_limits(study, Limits(trials=most, confirm=Confirmation(2)))
        while isinstance(claim := claim_trial(database, study, worker), Claim):
            train(database, study, claim)
        again = originals(study)
        assert expected is None or len(again) == expected
        assert len(study.get_trials()) == most
    # The last trial is one of the search where the best were confirmed before; no trial is left to confirm it.
    earlier = study.get_trials()[:-1]
    values = {trial.number: trial.value or 0.0 for trial in earlier if trial.number not in again}
    best = sorted(values, key=lambda number: -values[number])[:2]
    assert set(best) <= set(again.values()), "those of the first rung count, and are not trained a third time"
    assert len(set(again.values())) == len(again)


@pytest.mark.postgres
def test_a_kill_within_the_claim_leaves_no_part_of_a_replicate(
    database: Database, study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_limits(study, Limits(trials=2, confirm=Confirmation(1)))
    train(database, study, claimed(database, study))

    class DeathError(BaseException):
        pass

    def die(*_: Any, **__: Any) -> None:
        raise DeathError

    with monkeypatch.context() as patched:
        patched.setattr(storage.trials.leases, "grant", die)  # the last statement of a claim
        with pytest.raises(DeathError):
            claim_trial(database, study, Worker())
    assert len(study.get_trials()) == 1
    claimed(database, study)
    assert originals(study) == {1: 0}
    assert study.get_trials()[1].params == study.get_trials()[0].params
    assert study.get_trials()[1].state == TrialState.RUNNING


@pytest.mark.postgres
def test_a_waiting_trial_comes_before_a_replicate(database: Database, study: optuna.Study) -> None:
    write_limits(study, Limits(trials=3, confirm=Confirmation(1)))
    for _ in range(2):
        train(database, study, claimed(database, study))
    study.enqueue_trial({"x": 0.5})
    claim = claimed(database, study)
    assert load_trial(study, claim).suggest_float("x", 0, 1) == 0.5
    assert originals(study) == {}


@pytest.mark.postgres
def test_a_deadline_begins_the_rung_by_the_clock_of_the_database(database: Database, study: optuna.Study) -> None:
    for _ in range(3):
        train(database, study, claimed(database, study))
    limits = Limits(deadline=database.now() + timedelta(seconds=100), confirm=Confirmation(1))
    claimed(database, study, limits=limits)
    assert originals(study)[3] == max(study.get_trials()[:3], key=lambda trial: trial.value or 0.0).number


@pytest.mark.postgres
def test_a_study_that_has_converged_confirms_its_best_and_ends(database: Database, study: optuna.Study) -> None:
    worker = Worker()
    for _ in range(4):
        train(database, study, claimed(database, study))
    converged = Convergence(trials=4, gain=0.0, error=0.1)
    write_limits(study, Limits(20, until_converged=True, converged=converged, confirm=Confirmation(2)))
    while isinstance(claim := claim_trial(database, study, worker), Claim):
        train(database, study, claim)
    assert sorted(originals(study)) == [4, 5]


@pytest.mark.postgres
def test_an_interrupted_trial_of_a_study_that_has_converged_goes_on(database: Database, study: optuna.Study) -> None:
    worker = Worker()
    claim = claimed(database, study)
    end(database, claim, TrialState.WAITING)
    study.enqueue_trial({"x": 0.5})
    write_limits(study, Limits(20, until_converged=True, converged=Convergence(trials=4, gain=0.0, error=0.1)))
    again = claimed(database, study)
    assert again.number == claim.number
    end(database, again, TrialState.FAIL)
    assert claim_trial(database, study, worker) is NoTrial.SPENT  # what was enqueued is not begun


def end(db: Database, claim: Claim, state: TrialState) -> None:
    """End a claimed trial, or return it to the queue."""
    with LeaseSession(db.storage, claim.lease) as session:
        write = session.submit(
            lambda _: db.storage.set_trial_state_values(claim.lease.trial_id, state),
            ending="free" if state == TrialState.WAITING else "ended",
        )
        assert write.wait(30)


@pytest.mark.postgres
def test_a_study_of_an_earlier_version_confirms_nothing(database: Database, study: optuna.Study) -> None:
    study.set_user_attr("hpo:limits", {"trials": 20, "deadline": None, "run": None})
    assert read_limits(study) == Limits(20)
    assert read_limits(study).confirm.within(20) == 0


@pytest.mark.postgres
def test_the_confirmation_is_read_as_written(study: optuna.Study) -> None:
    for limits in (Limits(20, confirm=Confirmation(3, asked=False)), Limits(20, confirm=Confirmation(0))):
        write_limits(study, limits)
        assert read_limits(study) == limits


@pytest.mark.postgres
def test_the_trials_are_read_only_where_a_replicate_may_be_due(
    database: Database, study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[int] = []
    read = storage.trials.measured_trials
    monkeypatch.setattr(storage.trials, "measured_trials", lambda *given: reads.append(1) or read(*given))
    worker = Worker()
    claim = claim_trial(database, study, worker)
    assert isinstance(claim, Claim)
    train(database, study, claim)  # 60 seconds, by its record
    for left, expected in ((timedelta(hours=1), 0), (timedelta(seconds=200), 1)):
        write_limits(study, Limits(100, database.now() + left, confirm=ASKED))
        claim = claim_trial(database, study, worker)
        assert isinstance(claim, Claim)
        train(database, study, claim)
        assert len(reads) == expected
