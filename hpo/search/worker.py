"""A worker's life: connect, claim, train, tell, again, until the budget or a signal says stop."""

from __future__ import annotations

import atexit
import gc
import itertools
import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from itertools import takewhile
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState

from hpo.data import Dataset, ImageDigests
from hpo.errors import HpoError, UsageError
from hpo.search.clock import Clock, moment
from hpo.search.garbage import kept_by_copies
from hpo.search.plan import first_judged, open_study_data, origin_of, possible, refuse_other_normalisation
from hpo.search.signals import StopSignal
from hpo.search.strategy import make_pruner, sampler_for_trial
from hpo.search.trial import TrialOutcome, run_trial
from hpo.search.worker_context import EvictionOrder, WorkerContext
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
)

log = logging.getLogger(__name__)

FAILURES_IN_A_ROW = 5
"""After so many failed trials one after another the fault is not the configuration's; the budget is not burnt on it."""

STANDBY = 2.0
"""Seconds between two looks for a trial while there is none to train, at most."""

BETWEEN_ATTEMPTS = 2.0
"""Seconds that one attempt to reach the database may wait for a server that starts."""


@dataclass(frozen=True)
class WorkerOptions:
    """What one worker is started with; everything else is in the study."""

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
    """Seconds after which the trial of a worker that is heard of no more is another's."""
    db_grace: float = GRACE
    """Seconds for which the database may be away before the worker leaves."""
    preempt_file: Path | None = None
    """A file whose appearance asks for a stop."""
    artifacts_checked: bool = False
    """The place of the checkpoints was reached before, by an earlier process of the same isolated worker.

    Where it does not answer now, it is away for a while: the next trial waits for it, as between two epochs.
    """


@dataclass
class WorkCounts:
    """What a worker has done."""

    finished: int = 0
    failed_in_a_row: int = 0

    def add(self, outcome: TrialOutcome) -> None:
        """Count one trial."""
        self.finished += outcome is not TrialOutcome.INTERRUPTED
        self.failed_in_a_row = self.failed_in_a_row + 1 if outcome is TrialOutcome.FAILED else 0


@dataclass(frozen=True)
class WorkResult:
    """What came of a worker's time."""

    finished: int
    """Trials."""
    over: bool
    """Nothing is left to do: the budget is spent, the study stopped, or a signal came."""


def work(db: Database, options: WorkerOptions) -> int:
    """Take trials until the study's budget ends or a signal comes; the number of trials finished here."""
    return work_shift(db, options).finished


def work_shift(db: Database, options: WorkerOptions, most: int | None = None) -> WorkResult:
    """Take `most` trials at most, finished here or not.

    Raises StudyError for a missing study, DataError for other data, HpoError when trial after trial fails, and
    DatabaseUnavailableError when the database was away for longer than `db_grace`.
    """
    stop = StopSignal(options.preempt_file)
    shop, clock = RetryPolicy(options.db_grace).run(lambda: _prepared(db, options, stop))
    exempt_loaded_from_collection()
    db.start_timeout = BETWEEN_ATTEMPTS  # from now on the worker itself waits, and can be stopped while it does
    # Only now: until a trial is claimed, a signal may simply end the process.
    with stop.installed():
        return _take_trials(shop, clock, most)


def exempt_loaded_from_collection() -> None:
    """Exempt what is loaded by now from garbage collection, once in a process.

    A full collection walks some 450,000 objects of torch, timm and optuna and holds the interpreter lock meanwhile:
    0.2 to 0.35 s of processor time, in which no step is trained and no lease renewed. On a busy machine that
    took longer than a short lease. In a forked process it also copies every memory page that it touches.
    """
    if not gc.get_freeze_count():
        gc.freeze()
        atexit.register(gc.unfreeze)  # else extension modules report what they could not free at the end


def _prepared(db: Database, options: WorkerOptions, stop: StopSignal) -> tuple[WorkerContext, Clock]:
    """What can be had, and can be wrong, before the first trial is claimed."""
    study = open_study(db, options.study)
    db.require_schema()
    spec = give_own_id(db, study)
    expire_dead_neighbours(db, study)
    clock = Clock(db, study)
    return _workshop(db, study, spec, options, clock, stop), clock


def _take_trials(shop: WorkerContext, clock: Clock, most: int | None = None) -> WorkResult:
    tally = WorkCounts()
    try:
        tally.failed_in_a_row = shop.patience.run(lambda: failures_at_the_end(shop.study))
        for _ in itertools.count() if most is None else range(most):
            claim = _next_claim(shop, clock)
            if claim is None:
                return WorkResult(tally.finished, over=True)
            tally.add(run_trial(shop, claim))
            _refuse_failures(tally)
    except DatabaseUnavailableError as error:
        if not shop.asked_to_stop():
            raise
        log.warning("%s", error)  # a stop was asked for, and is obeyed: what could not be written others take over
        return WorkResult(tally.finished, over=True)
    return WorkResult(tally.finished, over=False)


def _refuse_failures(tally: WorkCounts) -> None:
    if tally.failed_in_a_row >= FAILURES_IN_A_ROW:
        raise HpoError(
            f"{FAILURES_IN_A_ROW} trials failed one after another; the reasons stand in `hpo status`. "
            "Mend the cause, then start again: the study goes on where it is"
        )


def _next_claim(shop: WorkerContext, clock: Clock) -> Claim | None:
    """A trial to train; None when there will be none, or when a stop is asked for.

    While others train the last trials, or the study is paused, it waits: one of those may have to be taken over.
    """
    standing_by: NoTrial | None = None
    while not shop.asked_to_stop():
        shop.patience.run(clock.read)
        found = shop.patience.run(lambda: claim_trial(shop.db, shop.study, shop.worker))
        if isinstance(found, Claim):
            return found
        if found is not standing_by:
            log.info("study %s: %s", shop.study.study_name, found.value)
            standing_by = found
        if found in (NoTrial.SPENT, NoTrial.STOPPED):
            return None
        RetryPolicy(should_stop=shop.asked_to_stop).sleep(min(STANDBY, shop.worker.seconds / RENEWALS))
    return None


def failures_at_the_end(study: optuna.Study) -> int:
    """How many of the study's latest finished trials failed one after another: a restart does not forgive them."""
    finished = [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]
    finished.sort(key=_ended)
    ended = takewhile(lambda trial: trial.state == TrialState.FAIL, reversed(finished))
    return sum(1 for _ in ended)


def _ended(trial: FrozenTrial) -> datetime:
    """When the trial ended; long ago where that is not known."""
    return moment(trial.datetime_complete) if trial.datetime_complete else datetime.min.replace(tzinfo=UTC)


def _workshop(
    db: Database, study: optuna.Study, spec: StudySpec, options: WorkerOptions, clock: Clock, stop: StopSignal
) -> WorkerContext:
    space = _localised(read_space(spec.space), spec, options.weights)
    study.pruner = make_pruner(spec.pruner, max(possible(space, "epochs")), first_judged(space))
    standing = EvictionOrder(study.get_trials(deepcopy=False), kept_by_copies(study, options.keep))
    quota = None if options.quota is None else Quota(options.quota, standing.evictable)

    @cache
    def dataset(image_size: int) -> Dataset:
        return open_study_data(options.data, spec, image_size, options.cache, name=options.study)

    store = open_store(options.artifacts, spec.id, quota=quota)
    # What is wrong is said before a trial is spent on it: other data, another split, a bucket that is not there.
    known = ImageDigests.of(dataset(max(possible(space, "image_size"))))
    _tell_of_unknown_split(spec, options.study)
    if not options.artifacts_checked:
        store.usage()
        claim_files(db, options.artifacts, spec.id)
    return WorkerContext(
        db=db,
        study=study,
        worker=Worker(device=options.device, seconds=options.lease),
        sampler=sampler_for_trial(spec.sampler, spec.seed),
        space=space,
        metric=spec.metric,
        seed=spec.seed,
        store=store,
        # What is compared is measured afterwards, the worst too.
        keep=len(space.entries) if isinstance(space, TrialList) else options.keep,
        dataset=dataset,
        device=options.device,
        cache=options.cache,
        asked_to_stop=lambda: stop.received is not None,
        out_of_time=clock.is_up,
        read_clock=clock.read,
        standing=standing,
        known=known,
        patience=RetryPolicy(options.db_grace, lambda: stop.received is not None),
    )


def _tell_of_unknown_split(spec: StudySpec, name: str) -> None:
    if not origin_of(spec).split_is_known:
        log.warning(
            "study %s was made by an earlier version of hpo, which kept no digest of its split: whether this worker "
            "validates on the same images as the trials before cannot be checked",
            name,
        )


def _localised(space: Space, spec: StudySpec, weights: Path | None) -> Space:
    """The space with the weights' path on this host; the file must be the one that the study was made with."""
    path = weights or space.fixed.get("weights")
    if spec.weights_digest is None and weights is not None:
        raise UsageError(f"--weights {weights}: the study was made without a weights file; leave the option out")
    if spec.weights_digest is None or path is None:
        return space
    from hpo.models import weights_digest

    file = Path(str(path)).resolve()
    if weights_digest(file) != spec.weights_digest:
        raise HpoError(f"{path} is not the weights file of the study; give the same one with --weights")
    refuse_other_normalisation(spec, file)
    return with_weights(space, str(file))
