"""`hpo pause`, `stop`, `resume`: reported in one line, and idempotent."""

from __future__ import annotations

from collections.abc import Callable

import optuna
import pytest
from click.testing import Result

from storage import Claim, Control, Database, NoTrial, Worker, claim_trial, get_control

pytestmark = pytest.mark.postgres
Here = Callable[..., Result]


def claim(database: Database, study: optuna.Study) -> Claim:
    found = claim_trial(database, study, Worker(device="cpu", seconds=60))
    assert isinstance(found, Claim)
    return found


@pytest.mark.parametrize(
    ("word", "control", "answer"),
    [("pause", Control.PAUSE, NoTrial.PAUSED), ("stop", Control.STOP, NoTrial.STOPPED)],
)
def test_a_pause_or_stop_applies_to_later_workers_until_resume(
    here: Here, database: Database, bare_study: optuna.Study, word: str, control: Control, answer: NoTrial
) -> None:
    first, again = here(word, "--study", "bare"), here(word, "--study", "bare")
    assert (first.exit_code, again.exit_code) == (0, 0)
    assert "already" not in first.stdout
    assert "already" in again.stdout
    assert "`hpo resume --study bare`" in first.stdout
    assert get_control(database, bare_study) is control
    assert claim_trial(database, bare_study, Worker()) is answer
    assert here("resume", "--study", "bare").exit_code == 0
    assert here("resume", "--study", "bare").stdout.startswith(
        "study bare is running already: no trial is being trained"
    )
    claim(database, bare_study)


@pytest.mark.parametrize(
    ("workers", "expected"),
    [
        (0, "no trial is being trained; all workers wait"),
        (1, "1 trial is being trained: its worker requeues it within 10 s and waits, as all other workers do"),
        (3, "3 trials are being trained: their workers requeue them within 10 s and wait, as all other workers do"),
    ],
)
def test_a_pause_says_how_many_trials_are_requeued_and_when(
    here: Here, database: Database, bare_study: optuna.Study, workers: int, expected: str
) -> None:
    for _ in range(workers):
        claim(database, bare_study)
    message = here("pause", "--study", "bare").stdout
    assert message == f"study bare is paused: {expected}; `hpo resume --study bare` lets them go on\n"


def test_a_stop_replaces_a_pause(here: Here, database: Database, bare_study: optuna.Study) -> None:
    here("pause", "--study", "bare")
    assert here("stop", "--study", "bare").stdout.startswith("study bare is stopped, no longer paused: ")
    assert "workers that have left stay away" in here("resume", "--study", "bare").stdout


def test_interrupted_trials_are_counted(here: Here, database: Database, bare_study: optuna.Study) -> None:
    lease = claim_trial(database, bare_study, Worker(host="gone", pid=1))
    assert isinstance(lease, Claim)
    here("reap", "--study", "bare", "--owner", "gone:1")
    assert (
        "no trial is being trained, 1 interrupted trial waits to be continued" in here("stop", "--study", "bare").stdout
    )


@pytest.mark.parametrize("word", ["pause", "stop", "resume", "reap", "gc"])
def test_a_missing_study(here: Here, bare_study: optuna.Study, word: str) -> None:
    result = here(word, "--study", "other")
    assert result.exit_code == 2
    assert "no study 'other'" in result.stderr
    assert "the studies are bare" in result.stderr


@pytest.mark.parametrize("word", ["status", "pause", "reap"])
def test_tables_of_an_earlier_version_are_named_as_such(
    here: Here, database: Database, bare_study: optuna.Study, word: str
) -> None:
    with database.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE hpo_leases, hpo_studies, hpo_schema")
    result = here(word, "--study", "bare")
    assert result.exit_code == 2
    assert "are of an earlier version of hpo" in result.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("status", "--study", "bare", "--json"),
        ("trials", "bare"),
        ("pause", "--study", "bare"),
        ("resume", "--study", "bare"),
        ("reap", "--study", "bare"),
        ("enqueue", "--study", "bare", "learning_rate=0.005"),
    ],
    ids=lambda words: words[0],
)
def test_a_study_whose_tables_lack_only_later_additions_is_read_and_controlled(
    here: Here, database: Database, bare_study: optuna.Study, words: tuple[str, ...]
) -> None:
    """Test accesses were not recorded then; no command that reads or controls a study needs their table."""
    with database.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE hpo_openings; UPDATE hpo_schema SET version = 2")
    result = here(*words)
    assert result.exit_code == 0, result.stderr
