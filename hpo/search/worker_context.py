"""Workshop: what a worker holds while it works, the same for all its trials."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from hpo.data import Dataset, ImageDigests
from hpo.search.garbage import kept_by_copies
from hpo.search.status import best_first
from search_spaces import Space
from storage import CheckpointStore, Database, DatabaseUnavailableError, RetryPolicy, Worker

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WorkerContext:
    """A study to work on, and what it takes."""

    db: Database
    study: optuna.Study
    worker: Worker
    sampler: Callable[[int], BaseSampler]
    """From the number of a trial to the sampler that proposes it."""
    space: Space
    metric: str
    seed: int
    store: CheckpointStore
    keep: int
    """How many of the study's best trials keep their checkpoints."""
    dataset: Callable[[int], Dataset]
    """From an image size in pixels to the data set packed at that size."""
    device: str
    cache: Path
    asked_to_stop: Callable[[], bool]
    """True once a signal came."""
    out_of_time: Callable[[], bool]
    """True once the budget's time is over."""
    read_clock: Callable[[], None]
    """Learns whether the budget's time has been changed since."""
    standing: EvictionOrder
    patience: RetryPolicy
    """With a database that is away."""
    known: ImageDigests
    """The images by part: their digest of the split goes into each trial, so that only like is compared with like."""


def keep_best(shop: WorkerContext) -> None:
    """Free the checkpoints of finished trials but the best `keep` complete ones."""
    try:
        trials = shop.patience.run(lambda: shop.study.get_trials(deepcopy=False))
        spared = shop.patience.run(lambda: kept_by_copies(shop.study, shop.keep))
    except DatabaseUnavailableError as error:
        log.debug("what can be freed is not known: %s", error)
        return
    shop.standing.learn(trials, spared)
    finished = {trial.number for trial in trials if trial.state.is_finished()}
    shop.store.drop(finished - {trial.number for trial in best_first(trials)[: shop.keep]} - spared)


class EvictionOrder:
    """Which finished trial is how good, as of the last look: known without the database, while it is away too."""

    def __init__(self, trials: Sequence[FrozenTrial], spared: Collection[int] = ()) -> None:
        self.learn(trials, spared)

    def learn(self, trials: Sequence[FrozenTrial], spared: Collection[int] = ()) -> None:
        """Look again; `spared` are numbers of trials whose checkpoints other studies need."""
        finished = [trial.number for trial in trials if trial.state.is_finished()]
        best = [trial.number for trial in best_first(trials)]
        ranked, spared = set(best), set(spared)
        order = [number for number in finished if number not in ranked] + best[:0:-1]
        self._order = [number for number in order if number not in spared]

    def evictable(self) -> Sequence[int]:
        """Those that may give up their checkpoints for want of room, the first to do so first: all but the best."""
        return self._order
