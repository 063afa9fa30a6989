from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from sqlalchemy import Connection, text

import storage.fenced_storage
from storage import (
    Database,
    DatabaseUnavailableError,
    StudyError,
    StudySpec,
    Worker,
    claim_trial,
    create_study,
    open_database,
    open_study,
    read_limits,
    read_spec,
    write_limits,
)
from storage.errors import ConflictError
from storage.studies import Limits

pytestmark = pytest.mark.postgres


@pytest.fixture
def study(database: Database, spec: StudySpec) -> optuna.Study:
    return create_study(database, "cells", spec)


def conflicts(database: Database, times: int) -> None:
    """Let PostgreSQL end the next writes of a trial's attributes with a serialisation failure."""
    with database.engine.begin() as connection:
        connection.execute(text("CREATE SEQUENCE writes"))
        connection.execute(
            text(
                "CREATE FUNCTION conflict() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
                f"IF nextval('writes') <= {times} THEN RAISE SQLSTATE '40001' "
                "USING MESSAGE = 'could not serialize access'; END IF; RETURN NEW; END $$"
            )
        )
        connection.execute(
            text("CREATE TRIGGER conflict BEFORE INSERT ON trial_user_attributes EXECUTE FUNCTION conflict()")
        )


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage.fenced_storage, "PAUSES", (0.0, 0.0))


def test_a_transaction_is_repeated_after_a_conflict(database: Database, study: optuna.Study, no_pause: None) -> None:
    trial = study.ask()
    conflicts(database, times=4)
    trial.set_user_attr("seed", 7)
    assert study.trials[0].user_attrs == {"seed": 7}


def test_repeated_conflicts_are_a_fault_of_the_database(
    database: Database, study: optuna.Study, no_pause: None
) -> None:
    trial = study.ask()
    conflicts(database, times=5)
    with pytest.raises(DatabaseUnavailableError, match="other sessions were in the way again and again") as caught:
        trial.set_user_attr("seed", 7)
    assert isinstance(caught.value, ConflictError)
    trial.set_user_attr("seed", 8)
    assert study.trials[0].user_attrs == {"seed": 8}


def test_a_real_deadlock_is_resolved_for_both_sessions(
    database: Database, database_url: str, study: optuna.Study
) -> None:
    """Another session holds the lock of one trial and waits for the other, which this one holds."""
    first, second = study.ask()._trial_id, study.ask()._trial_id
    lock = text("SELECT 1 FROM trials WHERE trial_id = :id FOR UPDATE")
    outcome: list[BaseException | None] = []
    with open_database(database_url, home=Path("unused")) as other, other.engine.connect() as theirs:
        theirs.execute(lock, {"id": first})

        def cross() -> None:
            try:
                with database.engine.begin() as ours:
                    ours.execute(lock, {"id": second})
                    ours.execute(lock, {"id": first})
                outcome.append(None)
            except DatabaseUnavailableError as error:
                outcome.append(error)

        thread = threading.Thread(target=cross)
        thread.start()
        while not _waiting(other):
            pass
        try:
            theirs.execute(lock, {"id": second})
            outcome.append(None)
            theirs.rollback()
        except DatabaseUnavailableError as error:
            outcome.append(error)
        thread.join(30)
    assert sorted(type(error) is ConflictError for error in outcome) == [False, True]


def _waiting(database: Database) -> bool:
    with database.engine.connect() as connection:
        statement = text(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return bool(connection.execute(statement).scalar_one())


Use = Callable[[Database, optuna.Study, optuna.Trial], object]


@pytest.mark.parametrize(
    "use",
    [
        lambda db, study, trial: claim_trial(db, study, Worker()),
        lambda db, study, trial: claim_trial(db, study, Worker(), Limits(trials=3)),
        lambda db, study, trial: read_limits(study),
        lambda db, study, trial: read_spec(study),
        lambda db, study, trial: write_limits(study, Limits(trials=3)),
        lambda db, study, trial: study.get_trials(),
        lambda db, study, trial: study.tell(trial, 0.5),
        lambda db, study, trial: trial.report(0.5, step=1),
        lambda db, study, trial: trial.set_user_attr("seed", 1),
        lambda db, study, trial: trial.suggest_float("x", 0, 1),
    ],
)
@pytest.mark.parametrize("again", [False, True])
def test_a_deleted_study_is_gone_even_if_another_has_its_name(
    database: Database, database_url: str, spec: StudySpec, study: optuna.Study, use: Use, again: bool
) -> None:
    trial = study.ask()
    with open_database(database_url, home=Path("unused")) as other:
        optuna.delete_study(study_name="cells", storage=other.storage)
        if again:
            create_study(other, "cells", spec)
    with pytest.raises(StudyError, match=r"the study is gone: .*--study"):
        use(database, study, trial)


def test_optunas_own_errors_for_a_missing_study_stay(database: Database) -> None:
    with pytest.raises(StudyError, match="no study 'nothing'"):
        open_study(database, "nothing")
    with pytest.raises(KeyError):
        database.storage.get_study_id_from_name("nothing")
    with pytest.raises(KeyError):
        database.storage.delete_study(99)


def test_a_transaction_commits_everything_that_optuna_writes_in_it_or_nothing(
    database: Database, study: optuna.Study
) -> None:
    with database.storage.transaction():
        kept = study.ask()
        kept.suggest_float("x", 0, 1)
        study.tell(kept, 0.5)

    def ask_and_fail() -> None:
        with database.storage.transaction():
            study.ask().suggest_float("x", 0, 1)
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        ask_and_fail()
    stored = database.storage.get_all_trials(study._study_id)  # optuna's cache above it knows nothing of a rollback
    assert [(trial.number, trial.state.name) for trial in stored] == [(0, "COMPLETE")]


def test_a_transaction_is_repeated_as_a_whole_after_a_conflict(
    database: Database, study: optuna.Study, no_pause: None
) -> None:
    conflicts(database, times=2)

    def write(_: Connection) -> int:
        trial = study.ask()
        trial.set_user_attr("seed", 7)
        return trial.number

    assert database.storage.atomically(write) == 0
    assert [trial.user_attrs for trial in study.trials] == [{"seed": 7}]


def test_only_a_key_error_of_optunas_storage_means_that_the_study_is_gone(database: Database) -> None:
    for run in (database.storage.retry_conflicts, lambda action: database.storage.atomically(lambda _: action())):
        with pytest.raises(KeyError) as caught:
            run(lambda: {}["x"])
        assert not isinstance(caught.value, StudyError)


def test_a_missing_study_raises_the_key_error_that_optuna_and_its_dashboard_expect(
    database: Database, study: optuna.Study
) -> None:
    optuna.delete_study(study_name=study.study_name, storage=database.storage)
    with pytest.raises(KeyError) as caught:
        database.storage.get_study_user_attrs(study._study_id)
    assert isinstance(caught.value, StudyError)
    assert str(caught.value).startswith("the study is gone: ")
