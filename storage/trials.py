"""The only way to a study's trials: claim an orphaned, else a waiting, else a new one, in one transaction.

A new one belongs to the search, or, at the end of a study, to its confirmation.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import optuna
from optuna.storages._cached_storage import _CachedStorage
from optuna.trial import TrialState
from sqlalchemy import Connection, Row, TextClause, text

from storage import leases
from storage.confirmation import MeasuredTrial, Remaining, make_replicate, measured_trials, most_time, next_replicate
from storage.database import Database
from storage.errors import StudyGoneError
from storage.fenced_storage import FencedStorage
from storage.leases import DEATHS, Lease
from storage.studies import LIMITS, Control, Limits, control_of, limits_from
from storage.workers import Worker

REASON = "reason"
"""User attribute of a trial: why it failed."""


@dataclass(frozen=True)
class Claim:
    """A trial that the caller trains, until its lease is lost."""

    number: int
    lease: Lease


class NoTrial(Enum):
    """Why there is no trial to train."""

    SPENT = "the budget is spent, and no worker trains any more"
    OTHERS = "others train the last trials, and one of those may have to be taken over"
    PAUSED = "the study is paused"
    STOPPED = "the study is stopped"


_STUDY = text("SELECT 1 FROM studies WHERE study_id = :study FOR UPDATE")

_VIEW = text(
    """
    SELECT count(*) AS trials, count(*) FILTER (WHERE t.state <> 'WAITING') AS claimed, clock_timestamp() AS now,
           (SELECT CAST(a.value_json AS jsonb) FROM study_user_attributes a
            WHERE a.study_id = :study AND a.key = :limits) AS limits
    FROM trials t WHERE t.study_id = :study
    """
)

# Optuna numbers and writes a trial in four statements; all other workers would wait for the study's lock meanwhile.
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

_INTERRUPTED = text(
    """
    SELECT t.trial_id, t.number FROM trials t JOIN hpo_leases l ON l.trial_id = t.trial_id
    WHERE t.study_id = :study AND t.state = 'WAITING'
    ORDER BY t.trial_id LIMIT 1
    """
)

_TRIAL = text("SELECT number, state FROM trials WHERE trial_id = :trial")

_HELD = text("SELECT count(*) FROM hpo_leases WHERE study_id = :study AND state = 'held'")


def claim_trial(db: Database, study: optuna.Study, worker: Worker, limits: Limits | None = None) -> Claim | NoTrial:
    """Claim the next trial for `worker`, with its lease, in one transaction: a kill leaves all of it or nothing.

    A trial with an expired lease comes first, whatever the limits: it was counted when it was first claimed. Then a
    waiting trial, an interrupted one before an enqueued one, and then a new one, while fewer than `limits.trials` have
    been claimed by any worker, and before the deadline by the database's clock. The last new ones have the parameters
    of the best trials where `limits.confirm` says so; of a converged study only these and interrupted ones are left.
    Without `limits` the study's own are read in the same transaction. Raises StudyError when the study was deleted.
    """
    claimer = _Claimer(db.storage, study._study_id, worker)
    return db.storage.atomically(lambda connection: claimer.claim(connection, limits))


def load_trial(study: optuna.Study, claim: Claim) -> optuna.Trial:
    """Load the claimed trial as optuna's own, to suggest and tell, as `study.ask` does for the trial that it makes."""
    # Optuna keeps the trials that its samplers read in this thread until the next `ask` or `tell`. For a trial that is
    # claimed here and told by another thread, the sampler would use the trials as they were before the first claim.
    study._thread_local.cached_all_trials = None
    _ = study.directions  # read now if optuna has not read the study yet
    trial = optuna.Trial(study, claim.lease.trial_id)
    # Optuna writes parameters only for trials in its cache: of all running trials this one alone is read for that.
    if isinstance(study._storage, _CachedStorage):
        study._storage._add_trials_to_cache(study._study_id, [copy(trial._cached_frozen_trial)])
    return trial


def reported_epochs(trial: optuna.Trial) -> set[int]:
    """Return the steps for which a value was reported before `trial` was claimed."""
    return set(trial._cached_frozen_trial.intermediate_values)


@dataclass(frozen=True)
class _Claimer:
    storage: FencedStorage
    study_id: int
    worker: Worker

    def claim(self, connection: Connection, limits: Limits | None) -> Claim | NoTrial:
        control = control_of(connection, self.study_id)
        if control is not Control.RUN:
            return NoTrial.PAUSED if control is Control.PAUSE else NoTrial.STOPPED
        held = self._reclaim_own(connection) or self._claim_orphan(connection)
        if held is not None:
            return Claim(_number(connection, held.trial_id), held)
        if connection.execute(_STUDY, {"study": self.study_id}).one_or_none() is None:
            raise StudyGoneError
        view = connection.execute(_VIEW, {"study": self.study_id, "limits": LIMITS}).one()
        limits = limits or limits_from(view.limits)
        if limits.allow(view.claimed, view.now):
            return self._claim_next(connection, limits, view)
        if limits.converged is not None and replace(limits, converged=None).allow(view.claimed, view.now):
            claimed = self._claim_after_convergence(connection, limits, view)
            if claimed is not None:
                return claimed
        others = connection.execute(_HELD, {"study": self.study_id}).scalar_one()
        return NoTrial.OTHERS if others else NoTrial.SPENT

    def _reclaim_own(self, connection: Connection) -> Lease | None:
        """Claim again a trial that the worker holds: its claim was committed, but the answer to COMMIT was lost."""
        while (held := leases.held_by(connection, self.study_id, self.worker)) is not None:
            if not close_if_finished(connection, held):
                # Under a new token: writes that a thread of this process still tries under the old one are refused.
                return leases.grant(connection, self.study_id, held.trial_id, self.worker)
        return None

    def _claim_orphan(self, connection: Connection) -> Lease | None:
        """Claim the trial of a worker that is gone; trials that killed their workers are failed on the way."""
        while (expired := leases.next_expired(connection, self.study_id)) is not None:
            if close_if_finished(connection, expired):
                continue
            if not is_poison(expired):
                return leases.grant(connection, self.study_id, expired.trial_id, self.worker, orphaned=True)
            fail_poison(self.storage, connection, expired)
        return None

    def _claim_next(self, connection: Connection, limits: Limits, view: Row[Any]) -> Claim:
        """Claim a waiting or a new trial; `view` says how many trials the study has, and how many were claimed."""
        waiting = self._claim_waiting(connection, _WAITING) if view.trials > view.claimed else None
        if waiting is not None:
            return waiting
        return self._claim_new(connection, view.trials, self._due_for_confirmation(connection, limits, view))

    def _claim_after_convergence(self, connection: Connection, limits: Limits, view: Row[Any]) -> Claim | None:
        """Claim a trial that was interrupted, else a new replicate; the search itself is over."""
        waiting = self._claim_waiting(connection, _INTERRUPTED) if view.trials > view.claimed else None
        if waiting is not None:
            return waiting
        original = self._due_for_confirmation(connection, limits, view)
        return None if original is None else self._claim_new(connection, view.trials, original)

    def _claim_new(self, connection: Connection, number: int, original: MeasuredTrial | None) -> Claim:
        """Create a running trial, a replicate of `original` if given, and claim it.

        The study's row lock keeps the number free of other workers.
        """
        trial_id = int(connection.execute(_NEW, {"study": self.study_id, "number": number}).scalar_one())
        if original is not None:
            make_replicate(connection, trial_id, original)
        return Claim(number, leases.grant(connection, self.study_id, trial_id, self.worker))

    def _due_for_confirmation(self, connection: Connection, limits: Limits, view: Row[Any]) -> MeasuredTrial | None:
        """Return the trial that the next one repeats, or None; the trials are read only where that may be due.

        All other workers wait for the study's lock meanwhile, and to read 10,000 trials takes a tenth of a second.
        """
        top = limits.confirm.within(limits.trials)
        left = None if limits.trials is None else limits.trials - view.claimed
        if limits.converged is not None:
            left = 0  # of the search
        seconds = None if limits.deadline is None else (limits.deadline - view.now).total_seconds()
        by_count = left is not None and left <= top
        if not top or not (by_count or (seconds is not None and seconds <= most_time(connection, self.study_id, top))):
            return None
        held = connection.execute(_HELD, {"study": self.study_id}).scalar_one()
        return next_replicate(
            limits.confirm, limits.trials, measured_trials(connection, self.study_id),
            Remaining(left, seconds, workers=held + 1),
        )  # fmt: skip

    def _claim_waiting(self, connection: Connection, query: TextClause) -> Claim | None:
        """Set the waiting trial that `query` finds running and claim it; None when there is none left."""
        while (found := connection.execute(query, {"study": self.study_id}).one_or_none()) is not None:
            if self.storage.set_trial_state_values(found.trial_id, state=TrialState.RUNNING):
                return Claim(found.number, leases.grant(connection, self.study_id, found.trial_id, self.worker))
        return None


def is_poison(expired: Lease) -> bool:
    """Return whether the loss of this lease's holder makes DEATHS in a row."""
    return expired.deaths + 1 >= DEATHS


def fail_poison(storage: FencedStorage, connection: Connection, expired: Lease) -> None:
    """Fail a trial whose holders died one after another, and write the reason. The caller holds the row lock."""
    reason = (
        f"its worker died {DEATHS} times without an epoch between (a crash, or killed for want of memory); "
        "it is not tried again"
    )
    storage.set_trial_user_attr(expired.trial_id, REASON, reason)
    storage.set_trial_state_values(expired.trial_id, TrialState.FAIL)
    leases.close_for_another(connection, expired.trial_id, "ended")


def close_if_finished(connection: Connection, expired: Lease) -> bool:
    """Close the lease of a trial that was finished without it (by hand, in a dashboard); False if the trial runs."""
    state = connection.execute(_TRIAL, {"trial": expired.trial_id}).one().state
    if state == "RUNNING":
        return False
    leases.close_for_another(connection, expired.trial_id, "free" if state == "WAITING" else "ended")
    return True


def _number(connection: Connection, trial_id: int) -> int:
    return int(connection.execute(_TRIAL, {"trial": trial_id}).one().number)
