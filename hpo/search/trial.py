"""One trial: suggest, train, report, prune, keep the best checkpoint, tell; behind its lease.

This is the one consumer of `fit()` that knows optuna; pruning is this consumer stopping. While `fit()` runs, this
thread makes no database call: what the trial reports goes through its book to the keeper of its lease.
"""

from __future__ import annotations

import copy
import logging
import traceback
from collections.abc import Callable
from contextlib import closing
from enum import Enum
from typing import TypeVar

from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from hpo.data import Dataset
from hpo.errors import DataError, HubError, TrialEnded
from hpo.interruption import TrainingInterrupted
from hpo.search.checkpointing import TrialFiles
from hpo.search.trial_record import TrialProgress, checkpoint_origin
from hpo.search.trial_reporter import TrialReporter
from hpo.search.worker_context import WorkerContext, keep_best
from hpo.training import EpochResult, FitData, Runtime, Snapshot, fit
from storage import (
    CheckpointError,
    Claim,
    Control,
    DatabaseUnavailableError,
    DiskFullError,
    LeaseLostError,
    LeaseSession,
    RetryPolicy,
    StorageError,
    StoreUnavailableError,
)

log = logging.getLogger(__name__)

T = TypeVar("T")

ROOM = 5.0
"""Seconds between two attempts at a full disk."""


class TrialOutcome(Enum):
    """How a trial ended for the worker that trained it."""

    COMPLETE = "complete"
    PRUNED = "pruned"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    """Put back, or lost to another worker."""


def run_trial(shop: WorkerContext, claim: Claim) -> TrialOutcome:
    """Train one trial to its end and tell it; a failing trial is told as such and does not end the worker.

    Faults of database, disk and data set are raised: no trial is to blame for them, and none would fare better.
    """
    with LeaseSession(shop.db.storage, claim.lease) as keeper:
        run = _TrialRun(shop, claim, keeper)
        try:
            return run.settle(run.train)
        except (LeaseLostError, UpdateFinishedTrialError) as lost:
            log.warning("trial %d is dropped: %s", claim.number, lost)
            return TrialOutcome.INTERRUPTED


class _TrialRun:
    """One taking of one trial."""

    def __init__(self, shop: WorkerContext, claim: Claim, keeper: LeaseSession) -> None:
        self._shop, self._keeper, self._number = shop, keeper, claim.number
        self._book = TrialReporter(shop, claim, keeper)
        self._files = TrialFiles(shop.store, claim.number, claim.lease.token, dict(claim.lease.checkpoint or {}))
        self._progress = TrialProgress(shop.metric)

    def settle(self, train: Callable[[], TrialOutcome]) -> TrialOutcome:
        """`train`, and what becomes of the trial when that does not reach its end."""
        try:
            return train()
        except TrainingInterrupted as stopped:
            return self._interrupted(stopped.snapshot)
        except TrialEnded as ended:
            # Told as pruned, not failed, since TPE leaves failed trials out; and as infeasible, since it ranks pruned
            # trials by the epoch that they reached: one that diverges late would be the best of them.
            return self._tell(TrialState.PRUNED, ended.reason, violated=ended.constraint)
        except (LeaseLostError, UpdateFinishedTrialError):
            raise
        except (StorageError, DataError, HubError, OSError, KeyboardInterrupt):
            self._book.put_back(self._files.reference)
            self._book.refuse_lost()  # what failed may be no fault: another has finished the trial and tidied up
            raise
        except Exception as error:  # noqa: BLE001 - the one broad except: whatever a configuration breaks, the next one may work
            return self._failed(error)

    def train(self) -> TrialOutcome:
        """Suggest, and train to the end or to the pruner's."""
        shop = self._shop
        config, seed = self._book.open()
        self._files.origin = checkpoint_origin(shop.study.study_name, config, seed)
        data = shop.dataset(config.image_size)
        self._stored(lambda: shop.store.keep_images(shop.known.split_digest, shop.known.to_bytes()))
        runtime = Runtime(
            device=shop.device, seed=seed, cache=shop.cache, metric=shop.metric,
            should_stop=self._should_stop, on_step=self._at,
        )  # fmt: skip
        resume = self._resume()
        if resume is not None and self._pruned(further=False):
            return self._tell(TrialState.PRUNED)
        with closing(fit(config, FitData(data.train, data.val, len(data.classes)), runtime, resume)) as epochs:
            for result in epochs:
                self._keep(result, data)
                log.info(
                    "trial %d: epoch %d/%d, %s %.4f (best %.4f), %.0f images/s",
                    self._number, result.epoch, config.epochs, shop.metric, result.metrics[shop.metric],
                    self._progress.best_value, result.images_per_second,
                )  # fmt: skip
                if self._pruned():
                    return self._tell(TrialState.PRUNED)
        return self._tell(TrialState.COMPLETE)

    def _resume(self) -> Snapshot | None:
        """The state that an earlier owner left, or None; the progress is filled from it."""
        found = self._stored(self._files.latest)
        before, self._keeper.position = self._keeper.lease.position, 0.0
        if found is not None:
            notes = found[1]
            self._progress.restore(notes["progress"])
            self._keeper.position = float(notes["position"])
            log.info("trial %d goes on after %.4g epochs", self._number, self._keeper.position)
        if before > self._keeper.position:
            self._book.add_repeated_epochs(before - self._keeper.position)
        return found[0] if found is not None else None

    def _keep(self, result: EpochResult, data: Dataset) -> None:
        """Write the checkpoints of one epoch, `best` and `latest`; the epoch counts once they are there."""
        progress = copy.deepcopy(self._progress)
        if progress.add(result):
            weights = result.weights()
            self._stored(lambda: self._files.keep_best(result, weights, data.val.labels))
        snapshot = result.snapshot()
        self._stored(lambda: self._files.keep_latest(snapshot, progress, float(result.epoch)))
        self._progress = progress

    def _stored(self, access: Callable[[], T]) -> T:
        """`access` to the checkpoints, waiting while there is no room or no store; TrainingInterrupted when a stop is
        asked for meanwhile."""
        while not self._keeper.over:
            try:
                result = access()
            except (DiskFullError, StoreUnavailableError) as want:
                self._tell_of(want)
                if not RetryPolicy(should_stop=self._should_stop).sleep(ROOM):
                    break
            else:
                self._keeper.note = None
                return result
        raise TrainingInterrupted("stopped while it waited for its checkpoints")

    def _tell_of(self, want: CheckpointError) -> None:
        if self._keeper.note is None:
            log.warning("trial %d waits: %s", self._number, want)
        self._keeper.note = f"waits: {want}"

    def _pruned(self, *, further: bool = True) -> bool:
        """Report what is not reported yet, and whether the pruner ends the trial after the last epoch."""
        if not self._progress.epochs:
            return False
        reached = self._progress
        return self._book.report(reached.curve, self._files.reference, last=reached.last, further=further)

    def _tell(self, state: TrialState, reason: str | None = None, violated: str | None = None) -> TrialOutcome:
        self._book.tell(self._progress, state, reason, violated)
        self._tidy()
        complete = state == TrialState.COMPLETE
        log.info("trial %d is %s%s", self._number, state.name.lower(), f": {reason}" if reason else "")
        return TrialOutcome.COMPLETE if complete else TrialOutcome.PRUNED

    def _tidy(self) -> None:
        """Free what a finished trial leaves; what cannot be freed now is freed after the next one."""
        try:
            self._shop.store.discard(self._number, "latest")  # nobody goes on from a finished trial
            keep_best(self._shop)
        except CheckpointError as error:
            log.warning("old checkpoints stay for now: %s", error)

    def _failed(self, error: Exception) -> TrialOutcome:
        reason = f"{type(error).__name__}: {error}".strip().splitlines()[0][:500]
        log.warning("trial %d failed: %s", self._number, reason)
        log.debug("%s", "".join(traceback.format_exception(error)))
        self._book.fail(reason)
        self._tidy()
        return TrialOutcome.FAILED

    def _interrupted(self, snapshot: Snapshot | None) -> TrialOutcome:
        """A stop puts the trial back, to be gone on with; at the end of the budget what it has reached counts."""
        self._book.refuse_lost()
        if self._progress.epochs and self._time_is_up():
            return self._tell(TrialState.COMPLETE, f"the time was up after epoch {self._progress.epochs}")
        if snapshot is not None:
            try:
                self._files.keep_latest(snapshot, self._progress, self._keeper.position)
            except CheckpointError as error:
                log.warning("trial %d keeps its last checkpoint: %s", self._number, error)
        self._book.put_back(self._files.reference)
        self._book.refuse_absence()
        return TrialOutcome.INTERRUPTED

    def _time_is_up(self) -> bool:
        """Whether the budget's time is over still: somebody may have given it more since the trial began."""
        if self._shop.out_of_time():
            try:
                self._shop.patience.run(self._shop.read_clock)
            except DatabaseUnavailableError as error:
                log.debug("the deadline stays as it was: %s", error)
        return self._shop.out_of_time()

    def _should_stop(self) -> bool:
        keeper, shop = self._keeper, self._shop
        return (
            shop.asked_to_stop()
            or shop.out_of_time()
            or keeper.over
            or keeper.control is not Control.RUN
            or keeper.failing > shop.patience.grace
        )

    def _at(self, position: float) -> None:
        self._keeper.position = position
