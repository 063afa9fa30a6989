"""A worker's life: connect, claim a trial, train and tell it, again, until the budget or a signal ends it."""

from __future__ import annotations

import atexit
import gc
import itertools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from hpo.data import Dataset, ImageDigests
from hpo.errors import HpoError, UsageError
from hpo.models import weights_digest
from hpo.search.convergence import ConvergenceCheck
from hpo.search.garbage import kept_by_copies
from hpo.search.plan import open_study_data, origin_of, refuse_other_normalisation
from hpo.search.probe_sampler import aware_of_probes
from hpo.search.signals import StopSignal
from hpo.search.status import moment
from hpo.search.strategy import pruner_for_space, sampler_for_trial
from hpo.search.trial import TrialOutcome, run_trial
from hpo.search.trial_record import FoldPlan, is_probe
from hpo.search.worker_context import Deadline, EvictionOrder, WorkerContext
from search_spaces import Space, TrialList, read_space, with_weights
from storage import (
    GRACE,
    LEASE_SECONDS,
    RENEWALS,
    Claim,
    Database,
    DatabaseUnavailableError,
    NoTrial,
    Quota,
    RetryPolicy,
    StudySpec,
    Worker,
    claim_files,
    claim_trial,
    expire_dead_neighbours,
    give_own_id,
    open_store,
    open_study,
    read_limits,
)

log = logging.getLogger(__name__)

FAILURES_IN_A_ROW = 5
"""Number of failed trials one after another that ends a worker: then the fault is not the configuration's."""

POLL_INTERVAL = 2.0
"""Seconds between two attempts to claim a trial while there is none, at most."""

CONNECT_TIMEOUT = 2.0
"""Seconds that one attempt to reach the database may wait for a server that starts."""


@dataclass(frozen=True)
class WorkerOptions:
    """Options of one worker; everything else is in the study."""

    data: Path
    study: str
    cache: Path
    artifacts: Path | str
    device: str
    weights: Path | None = None
    keep: int = 10
    quota: int | None = None
    """Bytes that the study's checkpoints may take; None is no limit."""
    lease: float = LEASE_SECONDS
    """Seconds without a renewal after which another worker may claim the worker's trial."""
    db_grace: float = GRACE
    """Seconds for which the database may be away before the worker leaves."""
    preempt_file: Path | None = None
    """A file whose appearance asks for a stop."""
    artifacts_checked: bool = False
    """Whether an earlier process of the same isolated worker reached the checkpoint store.

    Where it cannot be reached now, it is away for a while: the next trial waits for it, as between two epochs.
    """


@dataclass(frozen=True)
class WorkResult:
    """The result of a worker."""

    finished: int
    """Number of trials."""
    over: bool
    """Whether no work is left: the budget is spent, the study was stopped, or a signal came."""


def work(db: Database, options: WorkerOptions, most: int | None = None) -> WorkResult:
    """Train trials until the study's budget ends or a signal comes, `most` trials at most, finished here or not.

    Raises StudyError for a missing study, DataError for other data, HpoError when trial after trial fails, and
    DatabaseUnavailableError when the database was away for longer than `db_grace`.
    """
    stop = StopSignal(options.preempt_file)
    retry = RetryPolicy(options.db_grace, lambda: stop.received is not None)
    context = RetryPolicy(options.db_grace).run(lambda: _prepare(db, options, retry))
    exempt_loaded_from_collection()
    db.start_timeout = CONNECT_TIMEOUT  # from now on the worker itself waits, and can be stopped while it does
    # Only now: until a trial is claimed, a signal may simply end the process.
    with stop.installed():
        return _claim_and_train_trials(context, most)


def exempt_loaded_from_collection() -> None:
    """Exempt what is loaded by now from garbage collection, once in a process.

    A full collection walks some 450,000 objects of torch, timm and optuna and holds the interpreter lock meanwhile:
    0.2 to 0.35 s of processor time, in which no step is trained and no lease renewed. On a busy machine that
    took longer than a short lease. In a forked process it also copies every memory page that it touches.
    """
    if not gc.get_freeze_count():
        gc.freeze()
        atexit.register(gc.unfreeze)  # else extension modules report what they could not free at the end


def _claim_and_train_trials(context: WorkerContext, most: int | None = None) -> WorkResult:
    finished = 0
    try:
        failed_in_a_row = context.retry.run(lambda: failures_at_the_end(context.study))
        check = ConvergenceCheck(context.db, context.study, context.metric, context.robustness)
        for _ in itertools.count() if most is None else range(most):
            claim = _claim_next_trial(context, check)
            if claim is None:
                return WorkResult(finished, over=True)
            outcome = run_trial(context, claim)
            finished += outcome is not TrialOutcome.INTERRUPTED
            failed_in_a_row = failed_in_a_row + 1 if outcome is TrialOutcome.FAILED else 0
            if failed_in_a_row >= FAILURES_IN_A_ROW:
                raise HpoError(
                    f"{FAILURES_IN_A_ROW} trials failed one after another; the reasons stand in `hpo status`. "
                    "Mend the cause, then start again: the study goes on where it is"
                )
    except DatabaseUnavailableError as error:
        if not context.asked_to_stop():
            raise
        # A stop was asked for, and is obeyed: other workers take over what could not be written.
        log.warning("%s", error)
        return WorkResult(finished, over=True)
    return WorkResult(finished, over=False)


def _claim_next_trial(context: WorkerContext, check: ConvergenceCheck) -> Claim | None:
    """Claim a trial, waiting while the study is paused or others train its last trials, which may be requeued.

    None when there will be no trial, or when a stop is asked for.
    """
    waits_for: NoTrial | None = None
    while not context.asked_to_stop():
        context.retry.run(context.deadline.read)
        context.retry.run(check)
        claim = context.retry.run(lambda: claim_trial(context.db, context.study, context.worker))
        if isinstance(claim, Claim):
            return claim
        if claim is not waits_for:
            log.info("study %s: %s", context.study.study_name, claim.value)
            waits_for = claim
        if claim in (NoTrial.SPENT, NoTrial.STOPPED):
            return None
        RetryPolicy(should_stop=context.asked_to_stop).sleep(min(POLL_INTERVAL, context.worker.seconds / RENEWALS))
    return None


def failures_at_the_end(study: optuna.Study) -> int:
    """Return how many of the study's latest finished trials failed one after another, counted across restarts."""
    finished = [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]
    finished.sort(key=_end_of)
    failed = takewhile(lambda trial: trial.state == TrialState.FAIL, reversed(finished))
    return sum(1 for _ in failed)


def _end_of(trial: FrozenTrial) -> datetime:
    """Return when the trial ended; the earliest time where that is not known."""
    return moment(trial.datetime_complete) if trial.datetime_complete else datetime.min.replace(tzinfo=UTC)


def _prepare(db: Database, options: WorkerOptions, retry: RetryPolicy) -> WorkerContext:
    """Open the study, its data and its checkpoints, and raise what is wrong before a trial is claimed."""
    study = open_study(db, options.study)
    db.require_schema()
    spec = give_own_id(db, study)
    expire_dead_neighbours(db, study)
    deadline = Deadline(db, study)
    space = _with_local_weights(read_space(spec.space), spec, options.weights)
    folds = fold_plan(spec, space)
    trials = study.get_trials(deepcopy=False)
    study.pruner = pruner_for_space(spec.pruner, space, folds.count if folds else 1, sum(map(is_probe, trials)))
    keep = _kept(study, space, options)
    eviction = EvictionOrder(trials, kept_by_copies(study, keep))
    quota = None if options.quota is None else Quota(options.quota, eviction.evictable)
    store = open_store(options.artifacts, spec.id, quota=quota)
    dataset = _dataset_opener(options, spec)
    known = ImageDigests.of(dataset(max(space.values("image_size"))))
    _warn_of_unknown_split(spec, options.study)
    if not options.artifacts_checked:
        store.usage()  # raises where the folder or the bucket cannot be reached
        claim_files(db, options.artifacts, spec.id)
    return WorkerContext(
        db=db,
        study=study,
        worker=Worker(device=options.device, seconds=options.lease),
        sampler=_sampler(spec, trials),
        space=space,
        metric=spec.metric,
        robustness=spec.robustness,
        seed=spec.seed,
        store=store,
        keep=keep,
        dataset=dataset,
        cache=options.cache,
        deadline=deadline,
        eviction=eviction,
        retry=retry,
        known=known,
        folds=folds,
    )


def _sampler(spec: StudySpec, trials: Sequence[FrozenTrial]) -> Callable[[int], BaseSampler]:
    """Return a function from the number of a trial to its sampler; probes are enqueued when a study is made."""
    sampler = sampler_for_trial(spec.sampler, spec.seed)
    return aware_of_probes(sampler, spec.seed) if any(map(is_probe, trials)) else sampler


def _kept(study: optuna.Study, space: Space, options: WorkerOptions) -> int:
    """Return how many trials keep their checkpoints: any that is confirmed may become the best, as may a replicate.

    A trial list is measured when all its trials have ended, so each of them keeps its own.
    """
    if isinstance(space, TrialList):
        return len(space.entries)
    limits = read_limits(study)
    return max(options.keep, 2 * limits.confirm.within(limits.trials))


def fold_plan(spec: StudySpec, space: Space) -> FoldPlan | None:
    """Return the folds of a study; None without folds.

    A trial list is compared with models of the first fold alone, on the images that validate there, and trains on it.
    """
    count = origin_of(spec).folds
    if count is None or isinstance(space, TrialList):
        return None
    epochs: list[Any] = space.values("epochs")
    return FoldPlan(count, max(epochs))


def _dataset_opener(options: WorkerOptions, spec: StudySpec) -> Callable[[int], Dataset]:
    """Return a function that opens the study's data at an image size, once for each size."""

    @cache
    def open_at(image_size: int) -> Dataset:
        return open_study_data(options.data, spec, image_size, options.cache, name=options.study)

    return open_at


def _warn_of_unknown_split(spec: StudySpec, name: str) -> None:
    if not origin_of(spec).split_is_known:
        log.warning(
            "study %s was made by an earlier version of hpo, which kept no digest of its split: whether this worker "
            "validates on the same images as the trials before cannot be checked",
            name,
        )


def _with_local_weights(space: Space, spec: StudySpec, weights: Path | None) -> Space:
    """Return the space with the weights' path on this host; the file must be the one that the study was made with."""
    path = weights or space.fixed.get("weights")
    if spec.weights_digest is None and weights is not None:
        raise UsageError(f"--weights {weights}: the study was made without a weights file; leave the option out")
    if spec.weights_digest is None or path is None:
        return space
    file = Path(str(path)).resolve()
    if weights_digest(file) != spec.weights_digest:
        raise HpoError(f"{path} is not the weights file of the study; give the same one with --weights")
    refuse_other_normalisation(spec, file)
    return with_weights(space, str(file))
