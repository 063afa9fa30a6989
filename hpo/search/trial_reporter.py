"""TrialBook: all that the database is told of one trial, through the keeper of its lease."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import optuna
from optuna.pruners import NopPruner
from optuna.trial import TrialState
from sqlalchemy import Connection

from hpo.search.trial_record import TrialProgress, failure_attributes, final_attributes, initial_attributes
from hpo.search.worker_context import WorkerContext
from hpo.seeds import derive_seed
from search_spaces import SpaceError, TrialConfig, trial_seed
from storage import (
    LEAVING,
    Claim,
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

VERDICT = 2.0
"""Seconds that the end of an epoch waits for the pruner's word at most; a later word counts at the next epoch."""


def _verdict(asked: PendingWrite) -> bool:
    """What the pruner said, False as long as it said nothing; raises what went wrong with it."""
    if asked.failure is not None:
        raise asked.failure
    return bool(asked.answer)


class TrialReporter:
    """Opened once, then told of epochs, then closed: as told, failed or put back."""

    def __init__(self, shop: WorkerContext, claim: Claim, keeper: LeaseSession) -> None:
        self._shop, self._claim, self._keeper = shop, claim, keeper
        self._number = claim.number
        self._storage = shop.db.storage
        self._trial_id = claim.lease.trial_id
        self._trial: optuna.Trial | None = None
        self._reported: set[int] = set()
        self._asked: PendingWrite | None = None
        self._ending = False

    def open(self) -> tuple[TrialConfig, int]:
        """Suggest and record the configuration, and the seed of its training.

        It is sampled first, which may take seconds in a large study: the keeper renews the lease meanwhile, and a stop
        is obeyed. Then it is written in one transaction, so that a kill leaves none of it. What was suggested to an
        earlier owner of the trial stays as it was. Whatever a sampler or the space raises is the trial's failure.
        """
        return self._shop.patience.run(lambda: self._storage.retry_conflicts(self._suggest))

    def _suggest(self) -> tuple[TrialConfig, int]:
        shop, trial = self._shop, self._load_trial()
        with self._storage.transaction(self._keeper.lease.fence) as connection:
            given = trial._cached_frozen_trial.system_attrs.get("fixed_params", {})
            shop.space.check_parameters(given)  # enqueued past `hpo enqueue`, as in the dashboard
            config = shop.space.suggest(trial)
            if unasked := given.keys() - trial.params.keys():
                raise SpaceError(f"{', '.join(sorted(unasked))} does not exist under the other values of this trial")
            seed = derive_seed(shop.seed, "trial", trial_seed(shop.space, trial.params, self._number))
            record = initial_attributes(config, seed, str(shop.worker), shop.known.split_digest)
            write_attributes(connection, self._trial_id, record)
        self._trial, self._reported = trial, reported_epochs(trial)
        return config, seed

    def add_repeated_epochs(self, epochs: float) -> None:
        """Record the epochs, or the part of one, that were in no checkpoint and are trained again."""
        self._keeper.submit(lambda connection: add_repeated_epochs(connection, self._keeper.lease, epochs))

    def report(
        self, curve: Mapping[str, float], reference: Mapping[str, Any], *, last: bool, further: bool = True
    ) -> bool:
        """Report what of `curve` is not yet, with its checkpoint; gives whether the pruner ends the trial there.

        An earlier owner may have written checkpoints while the database was away, and died before it could report.
        It is not `further` where the trial was only just taken up. Without an answer in time the trial goes on, and a
        late one counts after the next epoch.
        """
        missing = {int(epoch): value for epoch, value in curve.items() if int(epoch) not in self._reported}
        self._reported |= missing.keys()
        done, reference = float(max(int(epoch) for epoch in curve)), dict(reference)

        def write(connection: Connection) -> None:
            for epoch, value in sorted(missing.items()):
                self._storage.set_trial_intermediate_value(self._trial_id, epoch, value)
            self._keeper.control = advance(connection, self._keeper.lease, done, reference, further=further)

        before = self._asked
        undoubted = last or isinstance(self._shop.study.pruner, NopPruner)
        self._asked = self._keeper.submit(write, question=None if undoubted else self._is_lagging)
        if undoubted:
            return False
        self._asked.wait(0 if self._keeper.failing else VERDICT)
        return any(_verdict(entry) for entry in (self._asked, before) if entry is not None)

    def _is_lagging(self) -> bool:
        """What the pruner says of the trial as stored: `Trial.should_prune` knows only what it reported itself."""
        study = self._shop.study
        return study.pruner.prune(study, study._storage.get_trial(self._trial_id))

    def tell(self, progress: TrialProgress, state: TrialState, reason: str | None, violated: str | None) -> None:
        """Record what training gave and tell the trial; a complete one is worth its best epoch.

        `violated` is the constraint that the trial broke: the sampler models where that happens.
        """

        def write(connection: Connection) -> None:
            assert self._trial is not None
            if violated is not None:
                self._trial.set_constraint(violated, 1.0)
            write_attributes(connection, self._trial_id, final_attributes(progress, reason))
            self._shop.study.tell(self._trial, progress.best_value if state == TrialState.COMPLETE else None, state)

        self._end(write)

    def fail(self, reason: str) -> None:
        """Tell the trial as failed; no sampler is asked, since it may be what failed."""

        def write(connection: Connection) -> None:
            write_attributes(connection, self._trial_id, failure_attributes(reason))
            self._storage.set_trial_state_values(self._trial_id, TrialState.FAIL)

        self._end(write)

    def put_back(self, reference: Mapping[str, Any]) -> None:
        """Have the trial wait for the next taking, with its checkpoint; where the database is away, until the lease
        expires."""
        if self._ending:  # it may be told yet; if it is not, the lease expires
            return
        position = self._keeper.position

        def write(connection: Connection) -> None:
            self._storage.set_trial_state_values(self._trial_id, TrialState.WAITING)
            set_checkpoint(connection, self._keeper.lease, position, dict(reference))

        entry = self._keeper.submit(write, ending="free")
        if entry.wait(LEAVING) and entry.written:
            kept = float(reference.get("position", 0))
            lost = f"; {position - kept:.3g} epochs could not be kept" if position > kept else ""
            log.info("trial %d is put back, to go on after %.4g epochs%s", self._number, kept, lost)
        else:
            log.warning("trial %d could not be put back; others take it when its lease expires", self._number)

    def refuse_lost(self) -> None:
        """Raise what ended the keeping: the lease was lost, or the study is gone."""
        if self._keeper.error is not None:
            raise self._keeper.error
        if self._keeper.lost:
            raise self._keeper.lease.lost()

    def refuse_absence(self) -> None:
        """Raise DatabaseUnavailableError once the database has been away for longer than the worker waits."""
        if self._keeper.failing > self._shop.patience.grace:
            raise self._away()

    def _load_trial(self) -> optuna.Trial:
        """The trial for optuna, with its own sampler: what that draws depends on the number, not on the taking."""
        self._shop.study.sampler = self._shop.sampler(self._number)
        return load_trial(self._shop.study, self._claim)

    def _end(self, write: Callable[[Connection], None]) -> None:
        """Have the trial told and its lease ended in one transaction, however long the database is away."""
        self._ending = True
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
