"""Claiming trials: exact under the cap, in one transaction, and the same trial again after an interruption."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.samplers import TPESampler
from optuna.trial import TrialState

from storage import (
    Claim,
    Control,
    Database,
    LeaseSession,
    Limits,
    NoTrial,
    StudyError,
    StudySpec,
    Worker,
    claim_trial,
    create_study,
    open_database,
    open_study,
    read_limits,
    set_control,
    write_limits,
)
from tests.storage.conftest import claimed

pytestmark = pytest.mark.postgres


@pytest.fixture
def study(database: Database, spec: StudySpec) -> optuna.Study:
    return create_study(database, "cells", spec)


def states(study: optuna.Study) -> list[str]:
    return [trial.state.name for trial in study.trials]


def trial_of(study: optuna.Study, claim: Claim) -> optuna.Trial:
    study.get_trials(deepcopy=False)
    return optuna.Trial(study, claim.lease.trial_id)


def requeue(database: Database, claim: Claim) -> None:
    with LeaseSession(database.storage, claim.lease) as session:
        trial = claim.lease.trial_id
        entry = session.submit(
            lambda _: database.storage.set_trial_state_values(trial, TrialState.WAITING), ending="free"
        )
        assert entry.wait(10)


def claim_all(url: str) -> list[int]:
    taken = []
    with open_database(url, home=Path("unused")) as database:
        study, worker = open_study(database, "cells"), Worker()
        while isinstance(claim := claim_trial(database, study, worker), Claim):
            trial = trial_of(study, claim)
            trial.suggest_float("x", 0, 1)
            with LeaseSession(database.storage, claim.lease) as session:
                assert session.submit(lambda _: study.tell(trial, 0.5), ending="ended").wait(30)  # noqa: B023
            taken.append(claim.number)
    return taken


def test_the_cap_of_a_study_is_exact_for_four_concurrent_processes(
    database: Database, database_url: str, spec: StudySpec, at_once: Any
) -> None:
    study = create_study(database, "cells", spec, [{"x": 0.1}, {"x": 0.2}])
    write_limits(study, Limits(trials=17))
    taken = at_once(4, claim_all, database_url)
    assert sorted(number for numbers in taken for number in numbers) == list(range(17))
    assert states(study) == ["COMPLETE"] * 17


def test_enqueued_points_come_first_and_count(database: Database, spec: StudySpec) -> None:
    study = create_study(database, "cells", spec, [{"x": 0.25}, {"x": 0.75}])
    limits = Limits(trials=3)
    claims = [claimed(database, study, limits=limits) for _ in range(3)]
    assert [claim.number for claim in claims] == [0, 1, 2]
    assert claim_trial(database, study, Worker(), limits) is NoTrial.OTHERS
    assert [trial_of(study, claim).suggest_float("x", 0, 1) for claim in claims[:2]] == [0.25, 0.75]


def test_a_raised_cap_continues_the_study_and_a_lowered_one_ends_it(database: Database, study: optuna.Study) -> None:
    write_limits(study, Limits(trials=1))
    claimed(database, study)
    assert claim_trial(database, study, Worker()) is NoTrial.OTHERS
    write_limits(study, Limits(trials=2))
    claimed(database, study)
    write_limits(study, Limits(trials=0))
    assert claim_trial(database, study, Worker()) is NoTrial.OTHERS


def test_no_trial_can_be_claimed_after_the_deadline(database: Database, study: optuna.Study) -> None:
    past, future = database.now() - timedelta(seconds=1), database.now() + timedelta(hours=1)
    assert claim_trial(database, study, Worker(), Limits(deadline=past)) is NoTrial.SPENT
    claimed(database, study, limits=Limits(deadline=future))


def test_without_limits_nothing_is_limited(database: Database, study: optuna.Study) -> None:
    assert read_limits(study) == Limits()
    claimed(database, study)


def test_limits_are_read_as_written(study: optuna.Study) -> None:
    deadline = datetime(2026, 11, 20, 12, 30, 0, 5, tzinfo=UTC)
    for limits in (Limits(trials=7, deadline=deadline), Limits(deadline=deadline, run=Worker())):
        write_limits(study, limits)
        assert read_limits(study) == limits


def test_limits_of_an_earlier_version_do_not_name_the_run_that_set_them(study: optuna.Study) -> None:
    study.set_user_attr("hpo:limits", {"trials": 3, "deadline": "2026-11-20T12:30:00+00:00"})
    assert read_limits(study) == Limits(3, datetime(2026, 11, 20, 12, 30, tzinfo=UTC))


@pytest.mark.parametrize("wrong", [{"trials": -1}, {"deadline": datetime(2026, 1, 1)}])  # noqa: DTZ001 - the mistake
def test_invalid_limits_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(StudyError, match="must"):
        Limits(**wrong)


def test_each_study_of_a_database_has_its_own_budget(database: Database, study: optuna.Study, spec: StudySpec) -> None:
    other = create_study(database, "other", spec)
    claimed(database, study, limits=Limits(trials=1))
    claimed(database, other, limits=Limits(trials=1))
    assert states(study) == states(other) == ["RUNNING"]


@pytest.mark.parametrize(("control", "answer"), [(Control.PAUSE, NoTrial.PAUSED), (Control.STOP, NoTrial.STOPPED)])
def test_no_trial_of_a_paused_or_stopped_study_can_be_claimed_until_it_is_resumed(
    database: Database, study: optuna.Study, control: Control, answer: NoTrial
) -> None:
    assert set_control(database, study, control) is Control.RUN
    assert claim_trial(database, study, Worker()) is answer
    assert states(study) == []
    assert set_control(database, study, Control.RUN) is control
    claimed(database, study)


def test_a_claim_whose_answer_was_lost_is_repeated_by_its_worker_only(database: Database, study: optuna.Study) -> None:
    worker = Worker()
    first = claim_trial(database, study, worker)
    again = claim_trial(database, study, worker)
    assert isinstance(first, Claim)
    assert isinstance(again, Claim)
    assert again.number == first.number
    assert again.lease.token > first.lease.token, "what is still tried under the first one is refused"
    assert again.lease.deaths == 0
    assert claimed(database, study).number == 1


def test_an_interrupted_trial_is_claimed_again_unchanged(
    database: Database, database_url: str, study: optuna.Study
) -> None:
    for value in (0.1, 0.9, 0.4):
        trial = study.ask()
        trial.suggest_float("x", 0, 1)
        study.tell(trial, value)
    study.sampler = TPESampler(n_startup_trials=1, seed=1)
    claim = claimed(database, study)
    first = trial_of(study, claim)
    x, kind = first.suggest_float("x", 0, 1), first.suggest_categorical("kind", ["a", "b"])
    first.report(0.3, step=1)
    first.set_user_attr("seed", 7)
    requeue(database, claim)
    assert states(study).count("WAITING") == 1

    with open_database(database_url, home=Path("unused")) as other:
        elsewhere = open_study(other, "cells", sampler=TPESampler(n_startup_trials=1, seed=99))
        again = claimed(other, elsewhere, limits=Limits(trials=4))
        assert again.number == claim.number
        assert again.lease.token > claim.lease.token
        trial = trial_of(elsewhere, again)
        assert trial.suggest_float("x", 0, 1) == x
        assert trial.suggest_categorical("kind", ["a", "b"]) == kind
        assert 0 <= trial.suggest_float("new", 0, 1) <= 1
        assert trial.user_attrs == {"seed": 7}
        trial.report(0.6, step=2)
        elsewhere.tell(trial, 0.6)
        finished = elsewhere.trials[claim.number]
    assert finished.intermediate_values == {1: 0.3, 2: 0.6}
    assert finished.params["x"] == x
    assert states(study) == ["COMPLETE"] * 4


def test_an_interrupted_trial_is_claimed_before_enqueued_ones_and_keeps_its_point(
    database: Database, spec: StudySpec
) -> None:
    study = create_study(database, "cells", spec, [{"x": 0.25}, {"x": 0.5}, {"x": 0.75}])
    claims = [claimed(database, study) for _ in range(2)]
    requeue(database, claims[1])
    again = claimed(database, study)
    assert again.number == 1
    with LeaseSession(database.storage, again.lease):
        assert trial_of(study, again).suggest_float("x", 0, 1) == 0.5


def test_the_pruner_uses_the_reports_from_before_the_interruption(database: Database, study: optuna.Study) -> None:
    study.pruner = optuna.pruners.ThresholdPruner(lower=0.5)
    claim = claimed(database, study)
    trial_of(study, claim).report(0.2, step=1)
    requeue(database, claim)
    assert trial_of(study, claimed(database, study)).should_prune()
