"""A worker's life: connect, claim, train, tell, again, until the budget or a signal says stop."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from itertools import takewhile
from pathlib import Path
from types import FrameType

import optuna
from optuna.trial import TrialState

from hpo.data import Dataset
from hpo.errors import HpoError, UsageError
from hpo.search.plan import open_study_data, possible
from hpo.search.record import worker_name
from hpo.search.strategy import make_pruner, sampler_for_trial
from hpo.search.trial import Outcome, Workshop, run_trial
from search_spaces import SearchSpace
from storage import (
    CheckpointStore,
    Database,
    StudySpec,
    claim_trial,
    open_study,
    read_limits,
    read_spec,
)

log = logging.getLogger(__name__)

FAILURES_IN_A_ROW = 5
"""After so many failed trials one after another the fault is not the configuration's; the budget is not burnt on it."""


class StopSignal:
    """SIGTERM, SIGINT and SIGHUP ask for a stop at the next step; a second one ends the process at once."""

    _SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

    def __init__(self) -> None:
        self.received: str | None = None

    def __call__(self, number: int, _: FrameType | None) -> None:
        """Signal handler."""
        if self.received:
            os._exit(128 + number)
        self.received = signal.Signals(number).name
        log.info("%s: stopping at the next step; a second signal leaves at once", self.received)

    @contextmanager
    def installed(self) -> Iterator[StopSignal]:
        """Handle the signals inside the block, and restore the former handlers after it."""
        former = {number: signal.signal(number, self) for number in self._SIGNALS}
        try:
            yield self
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)


def stop_with_parent() -> None:
    """Send this process SIGTERM when its standard input ends: the parent that held the other end is gone."""

    def wait() -> None:
        while os.read(0, 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="lifeline", daemon=True).start()


@dataclass
class Clock:
    """The time that is left of the study's budget: the database's clock, then counted on this host's steady one."""

    db: Database
    study: optuna.Study
    _end: float | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.read()

    def read(self) -> None:
        """Read the deadline again: another run may have set or lifted it."""
        deadline = read_limits(self.study).deadline
        self._end = None
        if deadline is not None:
            self._end = time.monotonic() + (deadline - self.db.now()).total_seconds()

    def is_up(self) -> bool:
        """True once the study's deadline has passed."""
        return self._end is not None and time.monotonic() >= self._end


@dataclass(frozen=True)
class WorkerOptions:
    """What one worker is started with; everything else is in the study."""

    data: Path
    study: str
    cache: Path
    artifacts: Path
    device: str
    weights: Path | None = None
    keep: int = 5


@dataclass
class Tally:
    """What a worker has done."""

    finished: int = 0
    failed_in_a_row: int = 0

    def add(self, outcome: Outcome) -> None:
        """Count one trial."""
        self.finished += outcome is not Outcome.INTERRUPTED
        self.failed_in_a_row = self.failed_in_a_row + 1 if outcome is Outcome.FAILED else 0


def work(db: Database, options: WorkerOptions) -> int:
    """Take trials until the study's budget ends or a signal comes; the number of trials finished here.

    Raises StudyError for a missing study, DataError for other data, HpoError when trial after trial fails.
    """
    study = open_study(db, options.study)
    spec = read_spec(study)
    clock, stop = Clock(db, study), StopSignal()
    shop = _workshop(study, spec, options, clock, lambda: bool(stop.received) or clock.is_up())
    # Only now: until a trial is claimed, a signal may simply end the process.
    with stop.installed():
        return _take_trials(db, shop, spec, clock)


def _take_trials(db: Database, shop: Workshop, spec: StudySpec, clock: Clock) -> int:
    sampler = sampler_for_trial(spec.sampler, spec.seed)
    tally = Tally(failed_in_a_row=failures_at_the_end(shop.study))
    while not shop.should_stop():
        clock.read()
        trial = claim_trial(db, shop.study, sampler=sampler, owner=worker_name())
        if trial is None:
            log.info("no trial is left in the budget of study %s", shop.study.study_name)
            break
        tally.add(run_trial(shop, trial))
        if tally.failed_in_a_row >= FAILURES_IN_A_ROW:
            raise HpoError(
                f"{FAILURES_IN_A_ROW} trials failed one after another; the reasons stand in `hpo status`. "
                "Mend the cause, then start again: the study goes on where it is"
            )
    return tally.finished


def failures_at_the_end(study: optuna.Study) -> int:
    """How many of the study's latest finished trials failed one after another: a restart does not forgive them."""
    finished = [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]
    finished.sort(key=lambda trial: trial.datetime_complete or datetime.min)  # noqa: DTZ901 - optuna's are naive too
    ended = takewhile(lambda trial: trial.state == TrialState.FAIL, reversed(finished))
    return sum(1 for _ in ended)


def _workshop(
    study: optuna.Study,
    spec: StudySpec,
    options: WorkerOptions,
    clock: Clock,
    should_stop: Callable[[], bool],
) -> Workshop:
    space = _localised(SearchSpace.from_dict(spec.space), spec, options.weights)
    study.pruner = make_pruner(spec.pruner, max(possible(space, "epochs")))

    @cache
    def dataset(image_size: int) -> Dataset:
        return open_study_data(options.data, spec, image_size, options.cache)

    dataset(max(possible(space, "image_size")))  # other data must be refused before a trial is claimed
    return Workshop(
        study=study, space=space, metric=spec.metric, seed=spec.seed,
        store=CheckpointStore(options.artifacts, spec.id), keep=options.keep,
        dataset=dataset, device=options.device, cache=options.cache,
        should_stop=should_stop, out_of_time=clock.is_up,
    )  # fmt: skip


def _localised(space: SearchSpace, spec: StudySpec, weights: Path | None) -> SearchSpace:
    """The space with the weights' path on this host; the file must be the one that the study was made with."""
    path = weights or space.fixed.get("weights")
    if spec.weights_digest is None and weights is not None:
        raise UsageError(f"--weights {weights}: the study was made without a weights file; leave the option out")
    if spec.weights_digest is None or path is None:
        return space
    from hpo.training import weights_digest

    file = Path(str(path)).resolve()
    if weights_digest(file) != spec.weights_digest:
        raise HpoError(f"{path} is not the weights file of the study; give the same one with --weights")
    return space.with_fixed({"weights": str(file)})
