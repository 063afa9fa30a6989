"""The one door to a study's trials: an orphan, else a waiting, else a new one, in one transaction and in the cap."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum

import optuna
from optuna.trial import TrialState
from sqlalchemy import Connection, text

from storage import leases
from storage.control import Control, control_of
from storage.database import Database
from storage.errors import study_gone
from storage.leases import DEATHS, Lease, Worker
from storage.limits import Limits, read_limits
from storage.persistence import PersistentStorage

REASON = "reason"
"""The user attribute of a trial that says why it failed."""


@dataclass(frozen=True)
class Claim:
    """A trial that is the caller's to train, until its lease is lost."""

    number: int
    lease: Lease


class NoTrial(Enum):
    """Why there is no trial to train."""

    SPENT = "the budget is spent, and nobody trains any more"
    OTHERS = "others train the last trials, and one of those may have to be taken over"
    PAUSED = "the study is paused"
    STOPPED = "the study is stopped"


_STUDY = text("SELECT 1 FROM studies WHERE study_id = :study FOR UPDATE")
_TAKEN_UP = text("SELECT count(*), clock_timestamp() FROM trials WHERE study_id = :study AND state <> 'WAITING'")
_WAITING = text(
    """
    SELECT t.trial_id FROM trials t LEFT JOIN hpo_leases l ON l.trial_id = t.trial_id
    WHERE t.study_id = :study AND t.state = 'WAITING'
    ORDER BY (l.trial_id IS NULL), t.trial_id LIMIT 1
    """
)
_TRIAL = text("SELECT number, state FROM trials WHERE trial_id = :trial")
_HELD = text("SELECT count(*) FROM hpo_leases WHERE study_id = :study AND state = 'held'")


def claim_trial(db: Database, study: optuna.Study, worker: Worker, limits: Limits | None = None) -> Claim | NoTrial:
    """The next trial for `worker`, with its lease: all in one transaction, so that a kill leaves all of it or nothing.

    An expired lease comes first, whatever the limits: its trial was counted when it was taken up. A waiting trial, the
    interrupted before the enqueued, and then a new one are given out while fewer than `limits.trials` were taken up,
    whoever took them, and before the deadline by the database's clock. Without `limits` the study's own are read in
    the same transaction. Raises StudyError where the study is gone.
    """
    door = _Door(db.storage, study, worker)
    return db.storage.atomically(lambda connection: door.open(connection, limits))


@dataclass(frozen=True)
class _Door:
    storage: PersistentStorage
    study: optuna.Study
    worker: Worker

    def open(self, connection: Connection, limits: Limits | None) -> Claim | NoTrial:
        control = control_of(connection, self.study_id)
        if control is not Control.RUN:
            return NoTrial.PAUSED if control is Control.PAUSE else NoTrial.STOPPED
        held = self._mine(connection) or self._orphan(connection)
        if held is not None:
            return Claim(_number(connection, held.trial_id), held)
        if connection.execute(_STUDY, {"study": self.study_id}).one_or_none() is None:
            raise study_gone()
        taken_up, now = self._taken_up(connection)
        if (limits or read_limits(self.study)).allow(taken_up, now):
            return self._next(connection)
        others = connection.execute(_HELD, {"study": self.study_id}).scalar_one()
        return NoTrial.OTHERS if others else NoTrial.SPENT

    @property
    def study_id(self) -> int:
        return self.study._study_id

    def _mine(self, connection: Connection) -> Lease | None:
        """A trial that is the worker's already: the COMMIT of its claim went through, but not the answer."""
        while (held := leases.mine(connection, self.study_id, self.worker)) is not None:
            if not settle_finished(connection, held):
                return held
        return None

    def _orphan(self, connection: Connection) -> Lease | None:
        """The trial of a worker that is gone; those that killed their workers are failed on the way."""
        while (expired := leases.next_expired(connection, self.study_id)) is not None:
            if settle_finished(connection, expired):
                continue
            if not is_poison(expired):
                return leases.give(connection, self.study_id, expired.trial_id, self.worker, expired.deaths + 1)
            fail_poison(self.storage, connection, expired)
        return None

    def _taken_up(self, connection: Connection) -> tuple[int, datetime]:
        """How many trials do not wait, and the time."""
        number, now = connection.execute(_TAKEN_UP, {"study": self.study_id}).one()
        return number, now

    def _next(self, connection: Connection) -> Claim:
        trial_id = self._waiting(connection)
        if trial_id is None:
            trial_id = self.storage.create_new_trial(self.study_id)
        lease = leases.give(connection, self.study_id, trial_id, self.worker, leases.deaths_of(connection, trial_id))
        return Claim(_number(connection, trial_id), lease)

    def _waiting(self, connection: Connection) -> int | None:
        """A waiting trial, set running; None where there is none, or a stranger was first."""
        while (trial_id := connection.execute(_WAITING, {"study": self.study_id}).scalar_one_or_none()) is not None:
            if self.storage.set_trial_state_values(trial_id, state=TrialState.RUNNING):
                return int(trial_id)
        return None


def is_poison(expired: Lease) -> bool:
    """Whether the loss of this lease's holder is one too many in a row."""
    return expired.deaths + 1 >= DEATHS


def fail_poison(storage: PersistentStorage, connection: Connection, expired: Lease) -> None:
    """Fail a trial whose holders died one after another, with the reason. The caller holds the row lock."""
    reason = (
        f"its worker died {DEATHS} times without an epoch between (a crash, or killed for want of memory); "
        "it is not tried again"
    )
    storage.set_trial_user_attr(expired.trial_id, REASON, reason)
    storage.set_trial_state_values(expired.trial_id, TrialState.FAIL)
    leases.close_for_another(connection, expired.trial_id, "ended")


def settle_finished(connection: Connection, expired: Lease) -> bool:
    """End the lease of a trial that somebody finished past us (by hand, in a dashboard); False where it runs."""
    state = connection.execute(_TRIAL, {"trial": expired.trial_id}).one().state
    if state == "RUNNING":
        return False
    leases.close_for_another(connection, expired.trial_id, "free" if state == "WAITING" else "ended")
    return True


def _number(connection: Connection, trial_id: int) -> int:
    return int(connection.execute(_TRIAL, {"trial": trial_id}).one().number)
