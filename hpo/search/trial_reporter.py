"""TrialReporter: all that one trial exchanges with the database, through the session that keeps its lease."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import optuna
from optuna.pruners import NopPruner
from optuna.trial import TrialState
from sqlalchemy import Connection

from hpo.search.planned_probes import probe_config
from hpo.search.ranking import has_complete, replicated
from hpo.search.trial_record import (
    TrialProgress,
    TrialRecord,
    failure_attributes,
    final_attributes,
    initial_attributes,
    outcome_attributes,
)
from hpo.search.worker_context import WorkerContext
from hpo.seeds import derive_seed
from search_spaces import SpaceError, TrialConfig, TrialList, trial_seed
from storage import (
    LEAVING,
    Claim,
    Control,
    DatabaseUnavailableError,
    LeaseSession,
    PendingWrite,
    add_repeated_epochs,
    advance,
    load_trial,
    reported_epochs,
    set_checkpoint,
    write_attributes,
)

log = logging.getLogger(__name__)

PRUNER_TIMEOUT = 2.0
"""Seconds that the end of an epoch waits for the pruner; a later answer is applied after the next epoch."""


class TrialReporter:
    """Suggests the configuration of a claimed trial, reports its epochs, then tells, fails or requeues it.

    A context manager: the lease is renewed inside the block. It is the one user of the trial's lease session.
    """

    def __init__(self, context: WorkerContext, claim: Claim) -> None:
        self._context, self._claim = context, claim
        self._session = LeaseSession(context.db.storage, claim.lease)
        self._number = claim.number
        self._storage = context.db.storage
        self._trial_id = claim.lease.trial_id
        self._trial: optuna.Trial | None = None
        self._reported: set[int] = set()
        self._confirms = False
        self._question: PendingWrite | None = None
        self._ending = False
        self.probe: str | None = None
        """The backbone, if the trial is a frozen probe; known once its configuration is suggested."""

    def __enter__(self) -> TrialReporter:
        self._session.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session.__exit__(kind, error, trace)

    def suggest(self) -> tuple[TrialConfig, int]:
        """Suggest and record the configuration, and the seed of its training.

        Sampling may take seconds in a large study: the lease is renewed meanwhile, and a stop is obeyed. All is written
        in one transaction, so a killed worker leaves none of it. What an earlier attempt suggested stays. An exception
        of the sampler or the space fails the trial.
        """
        return self._context.retry.run(lambda: self._storage.retry_conflicts(self._suggest))

    def _suggest(self) -> tuple[TrialConfig, int]:
        context = self._context
        context.study.sampler = context.sampler(self._number)
        trial = load_trial(context.study, self._claim)
        with self._storage.transaction(self._session.lease.fence) as connection:
            frozen = trial._cached_frozen_trial
            self.probe, given = TrialRecord.of(frozen).probe, frozen.system_attrs.get("fixed_params", {})
            context.space.check_parameters(given)  # optuna-dashboard enqueues without the checks of `hpo enqueue`
            config = probe_config(context.space, self.probe) if self.probe else context.space.suggest(trial)
            if unasked := given.keys() - trial.params.keys():
                raise SpaceError(f"{', '.join(sorted(unasked))} does not exist under the other values of this trial")
            seed = derive_seed(context.seed, "trial", trial_seed(context.space, trial.params, self._number))
            original = self._original(trial)
            attributes = initial_attributes(
                config, seed, str(context.worker), context.known.split_digest, context.folds, original
            )
            write_attributes(connection, self._trial_id, attributes)
        self._trial, self._reported = trial, reported_epochs(trial)
        return config, seed

    def _original(self, trial: optuna.Trial) -> int | None:
        """Return the number of the trial that this one repeats, with another seed, or None.

        It has that from its claim, from an earlier attempt, or the sampler or a person gave values that were tried.
        A trial that repeats a complete one is never pruned: a mean over those that did well would tell nothing.
        """
        others = self._context.study._get_trials(deepcopy=False, use_cache=True)
        original = TrialRecord.of(trial._cached_frozen_trial).replicate_of
        if original is None and self.probe is None and not isinstance(self._context.space, TrialList):
            original = replicated(trial.params, self._number, others)
        self._confirms = original is not None and has_complete(original, others)
        return original

    @property
    def position(self) -> float:
        """Epochs trained, with the fraction of the current one."""
        return self._session.position

    def set_position(self, position: float) -> None:
        """Set the position that renewals of the lease write."""
        self._session.position = position

    def resume_at(self, position: float) -> None:
        """Set the position that training starts from; epochs that an earlier attempt trained beyond it are counted."""
        lost, self._session.position = self._session.lease.position - position, position
        if lost > 0:
            self._session.submit(lambda connection: add_repeated_epochs(connection, self._session.lease, lost))

    def note_waiting(self, reason: object) -> None:
        """Show in the status what the trial waits for; the first of several notes in a row is logged."""
        if self._session.note is None:
            log.warning("trial %d waits: %s", self._number, reason)
        self._session.note = f"waits: {reason}"

    def clear_note(self) -> None:
        """End what `note_waiting` shows."""
        self._session.note = None

    @property
    def over(self) -> bool:
        """Whether nothing more can be written for the trial."""
        return self._session.over

    @property
    def must_stop(self) -> bool:
        """Whether training has to stop: the lease is lost, the study paused, or the database away for too long."""
        return self.over or self._session.control is not Control.RUN or self._is_away

    def report(
        self,
        curve: Mapping[str, float],
        reference: Mapping[str, Any],
        *,
        last: bool,
        further: bool = True,
        figures: Mapping[str, Any] | None = None,
    ) -> bool:
        """Report the epochs of `curve` that are not yet reported, with their checkpoint; return the pruner's decision.

        An earlier attempt may have written checkpoints while the database was away and ended before it could report.
        `further` is False where this attempt has trained no epoch yet. `figures` are attributes that show what the
        value is made of, where that is more than the metric. Without an answer of the pruner in time the trial goes on,
        and a late answer is applied after the next epoch.
        """
        missing = {int(epoch): value for epoch, value in curve.items() if int(epoch) not in self._reported}
        self._reported |= missing.keys()
        done, reference, shown = float(max(int(epoch) for epoch in curve)), dict(reference), dict(figures or {})

        def write(connection: Connection) -> Control:
            for epoch, value in sorted(missing.items()):
                self._storage.set_trial_intermediate_value(self._trial_id, epoch, value)
            write_attributes(connection, self._trial_id, shown)
            return advance(connection, self._session.lease, done, reference, further=further)

        before = self._question
        never_pruned = last or self._confirms or isinstance(self._context.study.pruner, NopPruner)
        self._question = self._session.submit(write, question=None if never_pruned else self._ask_pruner)
        if never_pruned:
            return False
        self._question.wait(0 if self._session.failing else PRUNER_TIMEOUT)
        return any(_answer(question) for question in (self._question, before) if question is not None)

    def _ask_pruner(self) -> bool:
        # Not `Trial.should_prune`, which knows only the epochs that it reported itself.
        study = self._context.study
        return study.pruner.prune(study, study._storage.get_trial(self._trial_id))

    def tell(self, progress: TrialProgress, state: TrialState, reason: str | None, violated: str | None) -> None:
        """Record what training gave and tell the trial; the value of a complete one is that of its best epoch.

        `violated` is the constraint that the trial broke: the sampler models where that happens.
        """

        def write(connection: Connection) -> None:
            assert self._trial is not None
            if violated is not None:
                self._trial.set_constraint(violated, 1.0)
            write_attributes(connection, self._trial_id, final_attributes(progress, reason))
            write_attributes(connection, self._trial_id, outcome_attributes(progress), system=True)
            value = progress.best_value if state == TrialState.COMPLETE else None
            self._context.study.tell(self._trial, value, state)

        self._end(write)

    def fail(self, reason: str) -> None:
        """Tell the trial as failed, without the sampler, whose exception may be the reason."""

        def write(connection: Connection) -> None:
            write_attributes(connection, self._trial_id, failure_attributes(reason))
            self._storage.set_trial_state_values(self._trial_id, TrialState.FAIL)

        self._end(write)

    def _end(self, write: Callable[[Connection], None]) -> None:
        """Write the trial's end and end its lease in one transaction, however long the database is away."""
        self._ending = True
        entry = self._session.submit(write, ending="ended")
        asked: float | None = None
        while not entry.wait(0.2):
            asked = asked or (time.monotonic() if self._context.asked_to_stop() else None)
            if asked is not None and time.monotonic() - asked > LEAVING:
                raise self._unavailable()
            self.raise_if_unavailable()
        self.raise_if_lost()

    def requeue(self, reference: Mapping[str, Any]) -> None:
        """Return the trial to the queue with its checkpoint; where the database is away, its lease has to expire."""
        if self._ending:  # its end may still be written; if it is not, the lease expires
            return
        position = self._session.position

        def write(connection: Connection) -> None:
            self._storage.set_trial_state_values(self._trial_id, TrialState.WAITING)
            set_checkpoint(connection, self._session.lease, position, dict(reference))

        entry = self._session.submit(write, ending="free")
        if entry.wait(LEAVING) and entry.written:
            kept = float(reference.get("position", 0))
            lost = f"; {position - kept:.3g} epochs could not be kept" if position > kept else ""
            log.info("trial %d is requeued, to be continued after %.4g epochs%s", self._number, kept, lost)
        else:
            log.warning("trial %d could not be requeued; another worker claims it when its lease expires", self._number)

    def raise_if_lost(self) -> None:
        """Raise what ended the session: the lease was lost, or the study is gone."""
        if self._session.error is not None:
            raise self._session.error
        if self._session.lost:
            raise self._session.lease.lost()

    def raise_if_unavailable(self) -> None:
        """Raise DatabaseUnavailableError once the database has been away for longer than the worker waits."""
        if self._is_away:
            raise self._unavailable()

    @property
    def _is_away(self) -> bool:
        return self._session.failing > self._context.retry.grace

    def _unavailable(self) -> DatabaseUnavailableError:
        return DatabaseUnavailableError(
            f"{self._context.db.where} has not answered for {self._session.failing:.0f} s; trial {self._number} has "
            "its checkpoint, and another worker goes on from it once the database is back"
        )


def _answer(question: PendingWrite) -> bool:
    """Return the pruner's decision, False until there is one; raise what the pruner raised."""
    if question.failure is not None:
        raise question.failure
    return bool(question.answer)
