"""Workshop: what a worker holds while it works, the same for all its trials."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.samplers import BaseSampler

from hpo.data import Dataset
from hpo.search.ranking import best_first
from search_spaces import SearchSpace
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
    space: SearchSpace
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
    patience: Patience
    """With a database that is away."""


def keep_best(shop: Workshop) -> None:
    """Free the checkpoints of finished trials but the best `keep` complete ones."""
    try:
        finished = [t for t in shop.study.get_trials(deepcopy=False) if t.state.is_finished()]
    except DatabaseUnavailableError as error:
        log.debug("what can be freed is not known: %s", error)
        return
    kept = best_first(finished)[: shop.keep]
    shop.store.drop({t.number for t in finished} - {t.number for t in kept})


def evictable(study: optuna.Study) -> Sequence[int]:
    """Finished trials, the first to give up its checkpoints for want of room first: all but the best of them."""
    try:
        finished = [t for t in study.get_trials(deepcopy=False) if t.state.is_finished()]
    except DatabaseUnavailableError:
        return []
    ranked = [t.number for t in best_first(finished)]
    return [t.number for t in finished if t.number not in ranked] + ranked[:0:-1]
