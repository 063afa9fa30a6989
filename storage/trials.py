"""The one door to a study's trials: an orphan, else a waiting, else a new one, in one transaction and in the cap."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from enum import Enum

import optuna
from optuna.storages._cached_storage import _CachedStorage
from optuna.trial import TrialState
from sqlalchemy import Connection, text

from storage import leases
from storage.database import Database
from storage.errors import StudyGoneError
from storage.fenced_storage import FencedStorage
from storage.leases import DEATHS, Lease
from storage.studies import LIMITS, Control, Limits, control_of, limits_from
from storage.workers import Worker

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

_VIEW = text(
    """
    SELECT count(*) AS trials, count(*) FILTER (WHERE t.state <> 'WAITING') AS taken_up, clock_timestamp() AS now,
           (SELECT CAST(a.value_json AS jsonb) FROM study_user_attributes a
            WHERE a.study_id = :study AND a.key = :limits) AS limits
    FROM trials t WHERE t.study_id = :study
    """
)

# As optuna numbers and writes it, which takes four statements, while all other workers wait for the study's lock.
_NEW = text(
    """
    INSERT INTO trials (study_id, number, state, datetime_start)
    VALUES (:study, :number, 'RUNNING', clock_timestamp() AT TIME ZONE 'UTC') RETURNING trial_id
    """
)

_WAITING = text(
    """
    SELECT t.trial_id, t.number FROM trials t LEFT JOIN hpo_leases l ON l.trial_id = t.trial_id
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


def take_up(study: optuna.Study, claim: Claim) -> optuna.Trial:
    """The claimed trial as optuna's own, to suggest and tell; does what `study.ask` does after it has one.

    Optuna keeps what its samplers saw of the study in this thread until the next `ask` or `tell`; a trial that is
    claimed here, and told by another thread, would be proposed from what was seen before the first. And it writes
    parameters for trials only that it has read: of all that run, this one alone is read for that.
    """
    study._thread_local.cached_all_trials = None
    _ = study.directions  # where optuna has not met the study yet
    trial = optuna.Trial(study, claim.lease.trial_id)
    if isinstance(study._storage, _CachedStorage):
        study._storage._add_trials_to_cache(study._study_id, [copy(trial._cached_frozen_trial)])
    return trial


def reported_epochs(trial: optuna.Trial) -> set[int]:
    """The steps for which a value was reported before `trial` was taken up."""
    return set(trial._cached_frozen_trial.intermediate_values)


@dataclass(frozen=True)
class _Door:
    storage: FencedStorage
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
            raise StudyGoneError
        view = connection.execute(_VIEW, {"study": self.study_id, "limits": LIMITS}).one()
        if (limits or limits_from(view.limits)).allow(view.taken_up, view.now):
            return self._next(connection, view.trials, view.trials - view.taken_up)
        others = connection.execute(_HELD, {"study": self.study_id}).scalar_one()
        return NoTrial.OTHERS if others else NoTrial.SPENT

    @property
    def study_id(self) -> int:
        return self.study._study_id

    def _mine(self, connection: Connection) -> Lease | None:
        """A trial that is the worker's already: the COMMIT of its claim went through, but not the answer."""
        while (held := leases.mine(connection, self.study_id, self.worker)) is not None:
            if not settle_finished(connection, held):
                # Under a new token: what a thread of this process still tries under the old one is refused.
                return leases.give(connection, self.study_id, held.trial_id, self.worker)
        return None

    def _orphan(self, connection: Connection) -> Lease | None:
        """The trial of a worker that is gone; those that killed their workers are failed on the way."""
        while (expired := leases.next_expired(connection, self.study_id)) is not None:
            if settle_finished(connection, expired):
                continue
            if not is_poison(expired):
                return leases.give(connection, self.study_id, expired.trial_id, self.worker, orphaned=True)
            fail_poison(self.storage, connection, expired)
        return None

    def _next(self, connection: Connection, trials: int, waiting: int) -> Claim:
        """A trial of a study that has so many, and so many of them wait."""
        found = self._waiting(connection) if waiting else None
        trial_id, number = found or (self._new(connection, trials), trials)
        return Claim(number, leases.give(connection, self.study_id, trial_id, self.worker))

    def _new(self, connection: Connection, number: int) -> int:
        """The id of a new trial, running; under the study's lock nobody else gives out its number."""
        return int(connection.execute(_NEW, {"study": self.study_id, "number": number}).scalar_one())

    def _waiting(self, connection: Connection) -> tuple[int, int] | None:
        """Id and number of a waiting trial, set running; None where there is none, or a stranger was first."""
        while (found := connection.execute(_WAITING, {"study": self.study_id}).one_or_none()) is not None:
            if self.storage.set_trial_state_values(found.trial_id, state=TrialState.RUNNING):
                return found.trial_id, found.number
        return None


def is_poison(expired: Lease) -> bool:
    """Whether the loss of this lease's holder is one too many in a row."""
    return expired.deaths + 1 >= DEATHS


def fail_poison(storage: FencedStorage, connection: Connection, expired: Lease) -> None:
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
