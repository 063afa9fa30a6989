"""TrialBook: all that the database is told of one trial, through the keeper of its lease."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import optuna
from optuna.trial import TrialState
from sqlalchemy import Connection

from hpo.search.record import Progress, close_record, open_record, write_reason
from hpo.search.workshop import Workshop
from search_spaces import TrialConfig
from storage import (
    Claim,
    DatabaseUnavailableError,
    LeaseKeeper,
    LeaseLostError,
    advance,
    count_redone,
    set_checkpoint,
)

log = logging.getLogger(__name__)

VERDICT = 2.0
"""Seconds that the end of an epoch waits for the pruner's word at most; a later word counts at the next epoch."""
LEAVING = 4.0
"""Seconds that a worker which was asked to stop waits for the database at most; then its lease expires instead."""


class TrialBook:
    """Opened once, then told of epochs, then closed: as told, failed or put back."""

    def __init__(self, shop: Workshop, claim: Claim, keeper: LeaseKeeper) -> None:
        self._shop, self._number, self._keeper = shop, claim.number, keeper
        self._storage = shop.db.storage
        self._trial_id = claim.lease.trial_id
        self._trial: optuna.Trial | None = None

    def open(self, seed: int) -> TrialConfig:
        """Suggest and record the configuration: all of it in one transaction, so that a kill leaves none of it.

        What was suggested to an earlier owner of the trial stays as it was.
        """

        def suggest(_: Connection) -> TrialConfig:
            self._trial = self._take_up()
            config = self._shop.space.suggest(self._trial)
            open_record(self._trial, config, seed, str(self._shop.worker))
            return config

        return self._shop.patience.run(lambda: self._storage.atomically(suggest, self._keeper.lease.fence))

    def count_redone(self, epochs: float) -> None:
        """Record the epochs, or the part of one, that were in no checkpoint and are trained again."""
        self._keeper.submit(lambda connection: count_redone(connection, self._keeper.lease, epochs))

    def report(self, epoch: int, value: float, reference: Mapping[str, Any], *, last: bool) -> bool:
        """Report an epoch together with its checkpoint, and whether the pruner ends the trial there.

        Without an answer of the database the trial goes on: the pruner is asked again after the next epoch.
        """
        assert self._trial is not None
        reference = dict(reference)

        def write(connection: Connection) -> None:
            self._storage.set_trial_intermediate_value(self._trial_id, epoch, value)
            self._keeper.hear(advance(connection, self._keeper.lease, float(epoch), reference))

        entry = self._keeper.submit(write, question=None if last else self._trial.should_prune)
        return not last and entry.wait(0 if self._keeper.failing else VERDICT) and bool(entry.answer)

    def tell(self, progress: Progress, state: TrialState, reason: str | None, violation: float | None) -> None:
        """Record what training gave and tell the trial; a complete one is worth its best epoch.

        `violation` above 0 says by how much the trial was infeasible, which the sampler models.
        """

        def write(_: Connection) -> None:
            assert self._trial is not None
            if violation is not None:
                self._trial.set_constraint("memory", violation)
            close_record(self._trial, progress, reason)
            self._shop.study.tell(self._trial, progress.best_value if state == TrialState.COMPLETE else None, state)

        self._end(write)

    def fail(self, reason: str) -> None:
        """Tell the trial as failed."""

        def write(_: Connection) -> None:
            trial = self._trial or self._take_up()
            write_reason(trial, reason)
            self._shop.study.tell(trial, state=TrialState.FAIL)

        self._end(write)

    def put_back(self, reference: Mapping[str, Any]) -> None:
        """Have the trial wait for the next taking, with its checkpoint; where the database is away, until the lease
        expires."""
        position = self._keeper.position

        def write(connection: Connection) -> None:
            self._storage.set_trial_state_values(self._trial_id, TrialState.WAITING)
            set_checkpoint(connection, self._keeper.lease, position, dict(reference))

        if self._keeper.submit(write, ending="free").wait(LEAVING) and not self._keeper.over:
            log.info("trial %d is put back after %.4g epochs", self._number, position)
        else:
            log.warning("trial %d could not be put back; others take it when its lease expires", self._number)

    def refuse_lost(self) -> None:
        """Raise what ended the keeping: the lease was lost, or the study is gone."""
        if self._keeper.error is not None:
            raise self._keeper.error
        if self._keeper.lost:
            raise LeaseLostError("it was given to another worker, or finished by somebody else")

    def refuse_absence(self) -> None:
        """Raise DatabaseUnavailableError once the database has been away for longer than the worker waits."""
        if self._keeper.failing > self._shop.patience.grace:
            raise self._away()

    def _take_up(self) -> optuna.Trial:
        """The trial for optuna, with its own sampler: what that draws depends on the number, not on the taking."""
        self._shop.study.sampler = self._shop.sampler(self._number)
        self._shop.study.get_trials(deepcopy=False)  # optuna's cache must know the trial
        return optuna.Trial(self._shop.study, self._trial_id)

    def _end(self, write: Callable[[Connection], None]) -> None:
        """Have the trial told and its lease ended in one transaction, however long the database is away."""
        entry = self._keeper.submit(write, ending="ended")
        asked: float | None = None
        while not entry.wait(0.2):
            asked = asked or (time.monotonic() if self._shop.asked_to_stop() else None)
            if asked is not None and time.monotonic() - asked > LEAVING:
                raise self._away()
            self.refuse_absence()
        self.refuse_lost()

    def _away(self) -> DatabaseUnavailableError:
        return DatabaseUnavailableError(
            f"{self._shop.db.where} has not answered for {self._keeper.failing:.0f} s; trial {self._number} has its "
            "checkpoint, and another worker goes on from it once the database is back"
        )
