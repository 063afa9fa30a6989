"""One trial: suggest, train, report, prune, keep the best checkpoint, tell; behind its lease.

This is the one consumer of `fit()` that knows optuna; to prune is to stop consuming. While `fit()` runs, this thread
makes no database call: the TrialReporter writes what the trial reports from the thread of the lease session.
"""

from __future__ import annotations

import copy
import logging
import traceback
from collections.abc import Callable
from contextlib import closing
from enum import Enum
from functools import cache, partial
from typing import TypeVar

from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from hpo.errors import DataError, HubError, TrialEnded
from hpo.evaluation.outcomes import Outcomes
from hpo.interruption import TrainingInterrupted
from hpo.search.checkpointing import TrialFiles, checkpoint_origin
from hpo.search.fold_progress import FoldedProgress, fit_folds
from hpo.search.frozen_probe import FeatureSource, probe_fitter
from hpo.search.trial_record import TrialProgress, pair_of
from hpo.search.trial_reporter import TrialReporter
from hpo.search.worker_context import WorkerContext, keep_best
from hpo.training import EpochResult, FitData, Runtime, Snapshot, fit
from hpo.training.loop import Epochs, Fitter
from search_spaces import TrialConfig
from storage import (
    CheckpointError,
    Claim,
    DatabaseUnavailableError,
    DiskFullError,
    LeaseLostError,
    RetryPolicy,
    StorageError,
    StoreUnavailableError,
)

log = logging.getLogger(__name__)

T = TypeVar("T")

FULL_DISK_PAUSE = 5.0
"""Seconds between two attempts to write to a full disk."""


class TrialOutcome(Enum):
    """How a trial ended for the worker that trained it."""

    COMPLETE = "complete"
    PRUNED = "pruned"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    """The trial was requeued, or its lease was lost to another worker."""


def run_trial(context: WorkerContext, claim: Claim) -> TrialOutcome:
    """Train one trial to its end and tell it; a failing trial is told as such and does not end the worker.

    Faults of database, disk and data set are raised: no trial is to blame for them, and the next would fail too.
    """
    with TrialReporter(context, claim) as reporter:
        try:
            return _TrialRun(context, claim, reporter).train_and_tell()
        except (LeaseLostError, UpdateFinishedTrialError) as lost:
            log.warning("trial %d is dropped: %s", claim.number, lost)
            return TrialOutcome.INTERRUPTED


class _TrialRun:
    """One attempt at one trial."""

    def __init__(self, context: WorkerContext, claim: Claim, reporter: TrialReporter) -> None:
        self._context, self._reporter, self._number = context, reporter, claim.number
        self._files = TrialFiles(context.store, claim.number, claim.lease.token, dict(claim.lease.checkpoint or {}))
        plan = context.folds
        self._progress = (
            FoldedProgress(context.metric, folds=plan.count, steps=plan.steps, robustness=context.robustness)
            if plan
            else TrialProgress(context.metric, robustness=context.robustness)
        )

    def train_and_tell(self) -> TrialOutcome:
        """Train the trial; tell it, or requeue it where training does not reach its end."""
        try:
            return self._train()
        except TrainingInterrupted as stopped:
            return self._requeue_or_complete(stopped.snapshot)
        except TrialEnded as ended:
            # Told as pruned, not failed, since TPE leaves failed trials out; and as infeasible, since it ranks pruned
            # trials by the epoch that they reached: one that diverges late would be the best of them.
            return self._tell(TrialState.PRUNED, ended.reason, violated=ended.constraint)
        except (LeaseLostError, UpdateFinishedTrialError):
            raise
        except (StorageError, DataError, HubError, OSError, KeyboardInterrupt):
            self._reporter.requeue(self._files.reference)
            # The error may be no fault: another worker may have finished the trial and removed its checkpoints.
            self._reporter.raise_if_lost()
            raise
        except Exception as error:  # noqa: BLE001 - the one broad except: whatever a configuration breaks, the next one may work
            return self._fail(error)

    def _train(self) -> TrialOutcome:
        """Suggest, and train until the last epoch or until the pruner decides."""
        context = self._context
        config, seed = self._reporter.suggest()
        self._files.origin = checkpoint_origin(context.study.study_name, config, seed)
        data = context.dataset(config.image_size)
        self._retry_while_full(lambda: context.store.keep_images(context.known.split_digest, context.known.to_bytes()))
        runtime = Runtime(
            device=context.worker.device, seed=seed, cache=context.cache, metric=context.metric,
            robustness=context.robustness, should_stop=self._should_stop, on_step=self._reporter.set_position,
        )  # fmt: skip
        data_of = cache(partial(context.fit_data, data))
        resume = self._restore()
        if resume is not None and self._report_and_ask_pruner(further=False):
            return self._tell(TrialState.PRUNED)
        fitter = probe_fitter(FeatureSource.of(data, context.cache)) if self._reporter.probe else fit
        with closing(self._fit(config, data_of, runtime, resume, fitter)) as epochs:
            for result in epochs:
                self._write_checkpoints(result, data_of)
                self._log_epoch(result, config.epochs)
                if self._report_and_ask_pruner():
                    return self._tell(TrialState.PRUNED)
        return self._tell(TrialState.COMPLETE)

    def _fit(
        self,
        config: TrialConfig,
        data_of: Callable[[int], FitData],
        runtime: Runtime,
        resume: Snapshot | None,
        fitter: Fitter,
    ) -> Epochs:
        """Return the epochs to train: of the one split, or of each fold."""
        if isinstance(self._progress, FoldedProgress):
            return fit_folds(config, data_of, runtime, self._progress, self._begin_fold, resume, fitter)
        return fitter(config, data_of(0), runtime, resume)

    def _log_epoch(self, result: EpochResult, epochs: int) -> None:
        progress, metric = self._progress, self._context.metric
        pair = pair_of(result.metrics, metric) if progress.robustness else ()
        where = f"frozen probe of {probe}" if (probe := self._reporter.probe) else f"epoch {result.epoch}/{epochs}"
        log.info(
            "trial %d%s: %s, %s %.4f%s (%s), %.0f images/s",
            self._number, progress.place, where, metric, progress.value_of(result.metrics),
            " (clean {:.4f}, altered {:.4f})".format(*pair) if pair else "",
            progress.best_so_far, result.images_per_second,
        )  # fmt: skip

    def _begin_fold(self, fold: int) -> None:
        assert isinstance(self._progress, FoldedProgress)
        self._progress.fold = fold

    def _restore(self) -> Snapshot | None:
        """Read the state that an earlier attempt left, or None; the progress is restored from it."""
        found = self._retry_while_full(self._files.latest)
        if found is None:
            self._reporter.resume_at(0.0)
            return None
        snapshot, notes = found
        self._progress.restore(notes["progress"])
        self._reporter.resume_at(float(notes["position"]))
        log.info("trial %d goes on after %.4g epochs", self._number, self._reporter.position)
        return snapshot

    def _write_checkpoints(self, result: EpochResult, data_of: Callable[[int], FitData]) -> None:
        """Write the checkpoints of one epoch, `best` and `latest`; the epoch counts once they are written.

        `data_of` gives the data of a fold; the best epoch of the first one is kept.
        """
        progress = copy.deepcopy(self._progress)
        if progress.add(result):
            weights, data = result.weights(), data_of(0)
            self._retry_while_full(lambda: self._files.keep_best(result, weights, data))
        if progress.improved:
            data = data_of(progress.fold if isinstance(progress, FoldedProgress) else 0)
            if (outcomes := _outcomes(result, data)) is not None:
                progress.keep_outcomes(outcomes)
        if not self._reporter.probe:  # which is fitted anew, in seconds
            snapshot = result.snapshot()
            self._retry_while_full(lambda: self._files.keep_latest(snapshot, progress, progress.position))
        self._progress = progress

    def _retry_while_full(self, access: Callable[[], T]) -> T:
        """Return what `access` to the checkpoints gives, retrying while the disk is full or the store unavailable.

        Raises TrainingInterrupted when a stop is asked for meanwhile.
        """
        while not self._reporter.over:
            try:
                result = access()
            except (DiskFullError, StoreUnavailableError) as error:
                self._reporter.note_waiting(error)
                if not RetryPolicy(should_stop=self._should_stop).sleep(FULL_DISK_PAUSE):
                    break
            else:
                self._reporter.clear_note()
                return result
        raise TrainingInterrupted("stopped while it waited for its checkpoints")

    def _report_and_ask_pruner(self, *, further: bool = True) -> bool:
        """Report the epochs that are not yet reported; return whether the pruner ends the trial after the last one.

        A frozen probe reports none, since its value would be compared with those of other trials after an epoch.
        """
        progress = self._progress
        if not progress.epochs or self._reporter.probe:
            return False
        return self._reporter.report(
            progress.curve, self._files.reference, last=progress.last, further=further, figures=progress.figures
        )

    def _tell(self, state: TrialState, reason: str | None = None, violated: str | None = None) -> TrialOutcome:
        self._reporter.tell(self._progress, state, reason, violated)
        self._free_checkpoints()
        complete = state == TrialState.COMPLETE
        log.info("trial %d is %s%s", self._number, state.name.lower(), f": {reason}" if reason else "")
        return TrialOutcome.COMPLETE if complete else TrialOutcome.PRUNED

    def _fail(self, error: Exception) -> TrialOutcome:
        reason = f"{type(error).__name__}: {error}".strip().splitlines()[0][:500]
        log.warning("trial %d failed: %s", self._number, reason)
        log.debug("%s", "".join(traceback.format_exception(error)))
        self._reporter.fail(reason)
        self._free_checkpoints()
        return TrialOutcome.FAILED

    def _free_checkpoints(self) -> None:
        """Free the checkpoints that a finished trial leaves; what cannot be freed now is freed after the next one."""
        try:
            self._context.store.discard(self._number, "latest")  # a finished trial is not resumed
            keep_best(self._context)
        except CheckpointError as error:
            log.warning("could not remove old checkpoints, which is tried again after the next trial: %s", error)

    def _requeue_or_complete(self, snapshot: Snapshot | None) -> TrialOutcome:
        """Requeue a stopped trial; where the study's time is over, complete it with the epochs that it has."""
        self._reporter.raise_if_lost()
        if self._progress.epochs and self._time_is_over():
            return self._tell(TrialState.COMPLETE, f"the time was up {self._progress.reached}")
        if snapshot is not None:
            try:
                self._files.keep_latest(snapshot, self._progress, self._reporter.position)
            except CheckpointError as error:
                log.warning("trial %d keeps its last checkpoint: %s", self._number, error)
        self._reporter.requeue(self._files.reference)
        self._reporter.raise_if_unavailable()
        return TrialOutcome.INTERRUPTED

    def _time_is_over(self) -> bool:
        """Whether the deadline has passed; it is read again, since it may have been moved after the trial began."""
        deadline = self._context.deadline
        if deadline.has_passed():
            try:
                self._context.retry.run(deadline.read)
            except DatabaseUnavailableError as error:
                log.debug("the deadline stays as it was: %s", error)
        return deadline.has_passed()

    def _should_stop(self) -> bool:
        return self._context.asked_to_stop() or self._context.deadline.has_passed() or self._reporter.must_stop


def _outcomes(result: EpochResult, data: FitData) -> Outcomes | None:
    """Return what the epoch's model predicts for each validation image; None without such images."""
    if data.val is None or result.logits is None:
        return None
    rows = data.altered.rows if data.altered is not None else None
    return Outcomes.of(data.val.labels, result.logits, result.altered_logits, rows)
