"""The trials of a study: counted in one statement, claimed through one door, put back after an interruption."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.samplers import BaseSampler
from optuna.trial import TrialState
from sqlalchemy import Connection, text

from storage.database import Database
from storage.limits import Limits, read_limits
from storage.studies import study_lock

_BY_STATE = text(
    "SELECT t.state::text AS state, count(*) AS number FROM trials t JOIN studies s USING (study_id) "
    "WHERE s.study_name = :name GROUP BY t.state"
)
_ASKED = text(
    "SELECT count(*), clock_timestamp() FROM trials t JOIN studies s USING (study_id) "
    "WHERE s.study_name = :name AND t.state <> 'WAITING'"
)


@dataclass(frozen=True)
class TrialCounts:
    """How many trials of a study are in each state."""

    waiting: int = 0
    running: int = 0
    complete: int = 0
    pruned: int = 0
    failed: int = 0

    @property
    def finished(self) -> int:
        """Trials that have ended, however."""
        return self.complete + self.pruned + self.failed

    @property
    def asked(self) -> int:
        """Trials that were taken up: the ones that count against the budget."""
        return self.finished + self.running


def counts(db: Database, study: optuna.Study) -> TrialCounts:
    """The trials of `study` by state, in one statement."""
    with db.engine.connect() as connection:
        rows = connection.execute(_BY_STATE, {"name": study.study_name}).all()
    found: dict[str, int] = {row.state: row.number for row in rows}
    return TrialCounts(
        waiting=found.get("WAITING", 0),
        running=found.get("RUNNING", 0),
        complete=found.get("COMPLETE", 0),
        pruned=found.get("PRUNED", 0),
        failed=found.get("FAIL", 0),
    )


def claim_trial(
    db: Database,
    study: optuna.Study,
    limits: Limits | None = None,
    *,
    sampler: Callable[[int], BaseSampler] | None = None,
) -> optuna.Trial | None:
    """The next trial, a waiting one before a new one; None when the budget is spent. The one door to trials.

    The cap is the study's and exact: under the study's lock, a trial is given out only while fewer than
    `limits.trials` were taken up, whoever took them, and before the deadline by the database's clock. Without
    `limits` the study's own are read, under the same lock. `sampler` makes the study's sampler from the number of
    trials taken up so far.
    """
    with db.lock(study_lock(study.study_name)) as connection:
        asked, now = _asked(connection, study)
        if not (limits or read_limits(study)).allow(asked, now):
            return None
        if sampler is not None:
            study.sampler = sampler(asked)
        return study.ask()


def requeue(study: optuna.Study, trial: optuna.Trial) -> bool:
    """Put an interrupted trial back: the next claim gives it out again, with its number, parameters and reports.

    False when it has finished meanwhile, or waits already: somebody else was first.
    """
    storage = study._storage
    try:
        if storage.get_trial(trial._trial_id).state != TrialState.RUNNING:
            return False
        return storage.set_trial_state_values(trial._trial_id, state=TrialState.WAITING)
    except UpdateFinishedTrialError:
        return False


def reported_steps(study: optuna.Study, trial: optuna.Trial) -> set[int]:
    """The steps for which `trial` has reported a value, whoever trained it then."""
    return set(study._storage.get_trial(trial._trial_id).intermediate_values)


def _asked(connection: Connection, study: optuna.Study) -> tuple[int, datetime]:
    asked, now = connection.execute(_ASKED, {"name": study.study_name}).one()
    return asked, now
