"""Workshop: what a worker holds while it works, the same for all its trials."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from hpo.data import Dataset
from hpo.search.ranking import best_first
from search_spaces import Space
from storage import CheckpointStore, Database, DatabaseUnavailableError, Patience, Worker

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Workshop:
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
    standing: Standing
    patience: Patience
    """With a database that is away."""


def keep_best(shop: Workshop) -> None:
    """Free the checkpoints of finished trials but the best `keep` complete ones."""
    try:
        trials = shop.patience.run(lambda: shop.study.get_trials(deepcopy=False))
    except DatabaseUnavailableError as error:
        log.debug("what can be freed is not known: %s", error)
        return
    finished = [t for t in trials if t.state.is_finished()]
    shop.standing.learn(finished)
    kept = best_first(finished)[: shop.keep]
    shop.store.drop({t.number for t in finished} - {t.number for t in kept})


class Standing:
    """Which finished trial is how good, as of the last look: known without the database, while it is away too."""

    def __init__(self, trials: Iterable[FrozenTrial]) -> None:
        self.learn(trials)

    def learn(self, trials: Iterable[FrozenTrial]) -> None:
        """Look again."""
        finished = [trial for trial in trials if trial.state.is_finished()]
        ranked = [trial.number for trial in best_first(finished)]
        self._order = [t.number for t in finished if t.number not in ranked] + ranked[:0:-1]

    def evictable(self) -> Sequence[int]:
        """Those that may give up their checkpoints for want of room, the first to do so first: all but the best."""
        return self._order
