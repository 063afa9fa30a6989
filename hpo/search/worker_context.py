"""WorkerContext: what a worker holds while it works, the same for all its trials."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import optuna
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from hpo.data import Dataset, ImageDigests
from hpo.evaluation.altered_part import altered_part
from hpo.search.garbage import kept_by_copies
from hpo.search.status import best_first, keeping_checkpoints
from hpo.search.trial_record import FoldPlan
from hpo.training import FitData
from search_spaces import Space
from storage import CheckpointStore, Database, DatabaseUnavailableError, RetryPolicy, Worker, read_limits

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WorkerContext:
    """A study, its data and checkpoints, and how this worker uses them."""

    db: Database
    study: optuna.Study
    worker: Worker
    sampler: Callable[[int], BaseSampler]
    """From the number of a trial to the sampler that proposes it."""
    space: Space
    metric: str
    seed: int
    """Seed of the study."""
    store: CheckpointStore
    keep: int
    """How many of the study's best trials keep their checkpoints."""
    dataset: Callable[[int], Dataset]
    """From an image size in pixels to the data set packed at that size."""
    cache: Path
    deadline: Deadline
    eviction: EvictionOrder
    retry: RetryPolicy
    """How long to retry while the database is unavailable, and what asks this worker to stop."""
    known: ImageDigests
    """The images by part: the digest of their split goes into each trial, so that only equal splits are compared."""
    folds: FoldPlan | None = None
    """The folds that each trial trains on; None without folds."""
    robustness: float = 0.0
    """Weight of the altered part in a trial's value."""

    def fit_data(self, dataset: Dataset, fold: int = 0) -> FitData:
        """Return the data of a fold, from 0, or of the one split; with the altered part where it has a weight."""
        train, val = dataset.fold(fold)
        altered = altered_part(val, self.cache, train=len(train)) if self.robustness else None
        return FitData(train, val, len(dataset.classes), altered)

    def asked_to_stop(self) -> bool:
        """Return whether a signal asked this worker to stop."""
        return self.retry.should_stop()


@dataclass
class Deadline:
    """The deadline of a study, by the database's clock, then counted on this host's monotonic clock."""

    db: Database
    study: optuna.Study
    _end: float | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.read()

    def read(self) -> None:
        """Read the deadline again: another run may have set or lifted it."""
        deadline = read_limits(self.study).deadline
        self._end = None if deadline is None else time.monotonic() + (deadline - self.db.now()).total_seconds()

    def has_passed(self) -> bool:
        """Return whether the deadline has passed; False where there is none."""
        return self._end is not None and time.monotonic() >= self._end


class EvictionOrder:
    """The order in which finished trials give up their checkpoints, as last read: known while the database is away."""

    def __init__(self, trials: Sequence[FrozenTrial], spared: Collection[int] = ()) -> None:
        self.update(trials, spared)

    def update(self, trials: Sequence[FrozenTrial], spared: Collection[int] = ()) -> None:
        """Order anew; `spared` are the numbers of trials whose checkpoints other studies need."""
        finished = [trial.number for trial in trials if trial.state.is_finished()]
        best = [trial.number for trial in best_first(trials)]
        ranked, spared = set(best), set(spared)
        order = [number for number in finished if number not in ranked] + best[:0:-1]
        self._order = [number for number in order if number not in spared]

    def evictable(self) -> Sequence[int]:
        """Return the trials that may give up their checkpoints for want of space, first to go first: not the best."""
        return self._order


def keep_best(context: WorkerContext) -> None:
    """Free the checkpoints of finished trials but those of `keeping_checkpoints`."""
    try:
        trials = context.retry.run(lambda: context.study.get_trials(deepcopy=False))
        spared = context.retry.run(lambda: kept_by_copies(context.study, context.keep))
    except DatabaseUnavailableError as error:
        log.debug("what can be freed is not known: %s", error)
        return
    context.eviction.update(trials, spared)
    finished = {trial.number for trial in trials if trial.state.is_finished()}
    kept = {trial.number for trial in keeping_checkpoints(trials, context.keep)}
    context.store.drop(finished - kept - spared)
