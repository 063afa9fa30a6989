from __future__ import annotations

import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.samplers import TPESampler
from sqlalchemy import text

from storage import (
    Database,
    DatabaseUnavailableError,
    Limits,
    StudyError,
    StudySpec,
    claim_trial,
    create_study,
    open_database,
    open_study,
    read_limits,
    requeue,
    write_limits,
)

pytestmark = pytest.mark.postgres


@pytest.fixture
def study(database: Database, spec: StudySpec) -> optuna.Study:
    return create_study(database, "cells", spec)


def states(study: optuna.Study) -> list[str]:
    return [trial.state.name for trial in study.trials]


def claim_all(url: str) -> list[int]:
    taken = []
    with open_database(url, home=Path("unused")) as database:
        study = open_study(database, "cells")
        while (trial := claim_trial(database, study)) is not None:
            trial.suggest_float("x", 0, 1)
            study.tell(trial, 0.5)
            taken.append(trial.number)
    return taken


def test_the_cap_is_the_studys_and_exact_though_four_processes_take_from_it(
    database: Database, database_url: str, spec: StudySpec, at_once: Any
) -> None:
    study = create_study(database, "cells", spec, [{"x": 0.1}, {"x": 0.2}])
    write_limits(study, Limits(trials=17))
    taken = at_once(4, claim_all, database_url)
    assert sorted(number for numbers in taken for number in numbers) == list(range(17))
    assert states(study) == ["COMPLETE"] * 17


def test_the_points_come_first_and_count(database: Database, spec: StudySpec) -> None:
    study = create_study(database, "cells", spec, [{"x": 0.25}, {"x": 0.75}])
    limits = Limits(trials=3)
    trials = [claim_trial(database, study, limits) for _ in range(4)]
    assert [trial.number for trial in trials if trial] == [0, 1, 2]
    assert trials[3] is None
    assert [trial.suggest_float("x", 0, 1) for trial in trials[:2] if trial] == [0.25, 0.75]


def test_a_raised_cap_lets_the_study_go_on_and_a_lowered_one_ends_it(database: Database, study: optuna.Study) -> None:
    write_limits(study, Limits(trials=1))
    assert claim_trial(database, study) is not None
    assert claim_trial(database, study) is None
    write_limits(study, Limits(trials=2))
    assert claim_trial(database, study) is not None
    write_limits(study, Limits(trials=0))
    assert claim_trial(database, study) is None


def test_no_trial_is_given_out_after_the_deadline(database: Database, study: optuna.Study) -> None:
    past, future = database.now() - timedelta(seconds=1), database.now() + timedelta(hours=1)
    assert claim_trial(database, study, Limits(deadline=past)) is None
    assert claim_trial(database, study, Limits(deadline=future)) is not None


def test_without_limits_none_hold(database: Database, study: optuna.Study) -> None:
    assert read_limits(study) == Limits()
    assert claim_trial(database, study) is not None


def test_limits_are_read_as_written(study: optuna.Study) -> None:
    limits = Limits(trials=7, deadline=datetime(2026, 11, 20, 12, 30, 0, 5, tzinfo=UTC))
    write_limits(study, limits)
    assert read_limits(study) == limits


@pytest.mark.parametrize("wrong", [{"trials": -1}, {"deadline": datetime(2026, 1, 1)}])  # noqa: DTZ001 - the mistake
def test_limits_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(StudyError, match="must"):
        Limits(**wrong)


def test_a_study_of_the_same_database_has_a_budget_of_its_own(
    database: Database, study: optuna.Study, spec: StudySpec
) -> None:
    other = create_study(database, "other", spec)
    assert claim_trial(database, study, Limits(trials=1)) is not None
    assert claim_trial(database, other, Limits(trials=1)) is not None
    assert states(study) == states(other) == ["RUNNING"]


def test_the_sampler_of_a_trial_follows_from_how_many_were_asked(database: Database, study: optuna.Study) -> None:
    seen: list[int] = []

    def sampler(asked: int) -> TPESampler:
        seen.append(asked)
        return TPESampler(seed=asked)

    samplers = [claim_trial(database, study, sampler=sampler) and study.sampler for _ in range(3)]
    assert seen == [0, 1, 2]
    assert len(set(map(id, samplers))) == 3


def test_a_claimed_trial_has_its_owner_and_one_that_was_put_back_has_none(
    database: Database, study: optuna.Study
) -> None:
    trial = claim_trial(database, study, owner="host:1")
    assert trial is not None
    assert study.trials[0].user_attrs == {"worker": "host:1"}
    assert requeue(study, trial)
    assert study.trials[0].user_attrs == {"worker": None}
    again = claim_trial(database, study, owner="host:2")
    assert again is not None
    assert again.number == trial.number
    assert study.trials[0].user_attrs == {"worker": "host:2"}


def lose_connection(database: Database) -> None:
    """End the session that holds an advisory lock, as a fault of the network or a restart does."""
    url = database.url.render_as_string(hide_password=False)
    with open_database(url, home=Path("unused")) as other, other.engine.connect() as connection:
        statement = text(
            "SELECT bool_and(pg_terminate_backend(l.pid, 5000)) FROM pg_locks l "
            "JOIN pg_database d ON d.oid = l.database "
            "WHERE l.locktype = 'advisory' AND d.datname = current_database()"
        )
        assert connection.execute(statement).scalar_one()


def test_the_cap_holds_though_the_lock_is_lost_between_count_and_ask(
    database: Database, database_url: str, study: optuna.Study
) -> None:
    write_limits(study, Limits(trials=1))

    def another_is_faster(_: int) -> TPESampler:
        lose_connection(database)
        with open_database(database_url, home=Path("unused")) as other:
            assert claim_trial(other, open_study(other, "cells")) is not None
        return TPESampler()

    with pytest.raises(DatabaseUnavailableError, match="the connection was cut"):
        claim_trial(database, study, sampler=another_is_faster, owner="late")
    assert states(study) == ["RUNNING", "WAITING"]
    assert study.trials[1].user_attrs == {"worker": None}
    assert claim_trial(database, study) is None


def test_a_trial_beyond_the_cap_is_put_back(database: Database, study: optuna.Study) -> None:
    """Somebody asked past the door: optuna's own `ask`, or a worker that lost the lock and died."""

    def past_the_door(_: int) -> TPESampler:
        study.ask()
        return TPESampler()

    assert claim_trial(database, study, Limits(trials=1), sampler=past_the_door) is None
    assert states(study) == ["RUNNING", "WAITING"]


def test_an_interrupted_trial_is_given_out_again_as_it_was(
    database: Database, database_url: str, study: optuna.Study
) -> None:
    for value in (0.1, 0.9, 0.4):
        trial = study.ask()
        trial.suggest_float("x", 0, 1)
        study.tell(trial, value)
    study.sampler = TPESampler(n_startup_trials=1, seed=1)
    first = claim_trial(database, study)
    assert first is not None
    x, kind = first.suggest_float("x", 0, 1), first.suggest_categorical("kind", ["a", "b"])
    first.report(0.3, step=1)
    first.set_user_attr("seed", 7)
    assert requeue(study, first)
    assert states(study).count("WAITING") == 1

    with open_database(database_url, home=Path("unused")) as other:
        elsewhere = open_study(other, "cells", sampler=TPESampler(n_startup_trials=1, seed=99))
        again = claim_trial(other, elsewhere, Limits(trials=4))
        assert again is not None
        assert again.number == first.number
        assert again.suggest_float("x", 0, 1) == x
        assert again.suggest_categorical("kind", ["a", "b"]) == kind
        assert 0 <= again.suggest_float("new", 0, 1) <= 1
        assert again.user_attrs == {"seed": 7, "worker": None}
        again.report(0.6, step=2)
        elsewhere.tell(again, 0.6)
        finished = elsewhere.trials[first.number]
    assert finished.intermediate_values == {1: 0.3, 2: 0.6}
    assert finished.params["x"] == x
    assert states(study) == ["COMPLETE"] * 4


def test_an_interrupted_point_keeps_the_values_that_it_was_enqueued_with(database: Database, spec: StudySpec) -> None:
    study = create_study(database, "cells", spec, [{"x": 0.25}])
    trial = claim_trial(database, study)
    assert trial is not None
    assert requeue(study, trial)
    again = claim_trial(database, study)
    assert again is not None
    assert again.suggest_float("x", 0, 1) == 0.25


def test_a_trial_that_has_finished_or_waits_already_is_not_put_back(database: Database, study: optuna.Study) -> None:
    finished, waiting = study.ask(), study.ask()
    study.tell(finished, 0.5)
    assert not requeue(study, finished)
    assert requeue(study, waiting)
    assert not requeue(study, waiting)
    assert states(study) == ["COMPLETE", "WAITING"]


def test_pruning_sees_the_reports_of_before_the_interruption(database: Database, study: optuna.Study) -> None:
    study.pruner = optuna.pruners.ThresholdPruner(lower=0.5)
    trial = claim_trial(database, study)
    assert trial is not None
    trial.report(0.2, step=1)
    requeue(study, trial)
    again = claim_trial(database, study)
    assert again is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # optuna says that step 1 is reported already: the first value stays
        again.report(0.9, step=1)
    assert again.should_prune()
