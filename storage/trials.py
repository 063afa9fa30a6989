"""The trials of a study: claimed through one door, and put back after an interruption."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.samplers import BaseSampler
from optuna.trial import TrialState
from sqlalchemy import Connection, text

from storage.database import Database
from storage.errors import StorageError
from storage.limits import Limits, read_limits
from storage.studies import study_lock

OWNER = "worker"
"""The user attribute of a trial that says who trains it."""
_TAKEN_UP = text("SELECT count(*), clock_timestamp() FROM trials WHERE study_id = :study AND state <> 'WAITING'")


def claim_trial(
    db: Database,
    study: optuna.Study,
    limits: Limits | None = None,
    *,
    sampler: Callable[[int], BaseSampler] | None = None,
    owner: str | None = None,
) -> optuna.Trial | None:
    """The next trial, a waiting one before a new one; None when the budget is spent. The one door to trials.

    The cap is the study's and exact: under the study's lock, a trial is given out only while fewer than
    `limits.trials` were taken up, whoever took them, and before the deadline by the database's clock. Without
    `limits` the study's own are read, under the same lock. `sampler` makes the study's sampler from the number of
    trials taken up so far; `owner` is written into the trial. Raises StudyError where the study is gone.
    """
    with db.lock(study_lock(study.study_name)) as connection:
        limits = limits or read_limits(study)
        taken_up, now = _taken_up(connection, study)
        if not limits.allow(taken_up, now):
            return None
        if sampler is not None:
            study.sampler = sampler(taken_up)
        trial = study.ask()
        if _confirmed(connection, study, trial, limits, owner):
            return trial
        requeue(study, trial)
        return None


def requeue(study: optuna.Study, trial: optuna.Trial) -> bool:
    """Put an interrupted trial back: the next claim gives it out again, with its number, parameters and reports.

    False when it has finished meanwhile, or waits already: somebody else was first.
    """
    storage = study._storage
    try:
        if storage.get_trial(trial._trial_id).state != TrialState.RUNNING:
            return False
        storage.set_trial_user_attr(trial._trial_id, OWNER, None)  # first: once it waits, it may be the next owner's
        return storage.set_trial_state_values(trial._trial_id, state=TrialState.WAITING)
    except UpdateFinishedTrialError:
        return False


def reported_steps(study: optuna.Study, trial: optuna.Trial) -> set[int]:
    """The steps for which `trial` has reported a value, whoever trained it then."""
    return set(study._storage.get_trial(trial._trial_id).intermediate_values)


def _confirmed(
    connection: Connection, study: optuna.Study, trial: optuna.Trial, limits: Limits, owner: str | None
) -> bool:
    """Write the owner, and whether the cap still holds: asked of the connection that must have held the lock so far.

    Where it was cut, another worker may have counted before we asked: the trial is put back, and the fault raised.
    """
    try:
        if owner is not None:
            trial.set_user_attr(OWNER, owner)
        taken_up, _ = _taken_up(connection, study)
    except StorageError:
        requeue(study, trial)
        raise
    return limits.trials is None or taken_up <= limits.trials


def _taken_up(connection: Connection, study: optuna.Study) -> tuple[int, datetime]:
    """How many trials do not wait, and the time."""
    number, now = connection.execute(_TAKEN_UP, {"study": study._study_id}).one()
    return number, now
