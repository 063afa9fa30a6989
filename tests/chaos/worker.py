"""The program of a worker: the real `work()` with the real engine, started by a fork of a process that has torch.

A start costs a tenth of a second in place of four, and hundreds are killed. Nothing of hpo is replaced: `fit` is
wrapped to keep a diary, and the clock is wrong where the schedule says so.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import optuna
import timm  # noqa: F401 - here so that the fork has it
import torch

import hpo.search.trial as trial_module
from hpo.errors import HpoError
from hpo.search.worker import WorkerOptions, work
from hpo.training import FitData, Runtime, fit
from storage import StorageError, open_database
from tests.chaos.bench import STUDY, Bench
from tests.chaos.clock import shift_clock
from tests.chaos.steps import Diary

KEEP = 2
"""Best trials whose checkpoints stay."""


@dataclass(frozen=True)
class Orders:
    """What one worker is started with."""

    bench: Bench
    url: str
    artifacts: Path
    log: Path
    diary: Path
    lease: float
    """Seconds."""
    db_grace: float = 120.0
    clock_off: float = 0.0
    """Seconds by which its wall clock is wrong."""
    study: str = STUDY
    poison: frozenset[int] = frozenset()
    """Numbers of the trials that kill the worker in their second epoch, as a crash in a kernel would."""

    @property
    def deaths(self) -> Path:
        """The file that each such death is written to, as «time process»."""
        return self.diary.with_name("deaths")


def run_worker(orders: Orders) -> None:
    """The whole life of a worker's process. It ends with the exit code of `hpo worker`."""
    os.setpgid(0, 0)
    _log_to(orders.log)
    _end_with_parent()
    torch.set_num_threads(1)
    if orders.clock_off:
        shift_clock(orders.clock_off)
    trial_module.fit = Diary(orders.diary, orders.bench.numbers(), _deadly(orders)).kept_by(trial_module.fit)
    try:
        with open_database(orders.url, home=orders.bench.folder / "unused", patience=60.0) as db:
            finished = work(db, _options(orders))
    except (HpoError, StorageError) as error:
        logging.getLogger("hpo").error("%s: %s", type(error).__name__, error)
        sys.exit(2)
    logging.getLogger("hpo").info("%d trials finished by this worker", finished)


def _deadly(orders: Orders) -> Callable[[int, float], None]:
    """What is called after each step: it ends the process in the second epoch of a trial that is poison."""

    def die(trial: int, position: float) -> None:
        if trial in orders.poison and position > 1:
            with orders.deaths.open("a") as file:
                file.write(f"{time.monotonic():.6f} {os.getpid()}\n")
            os.kill(os.getpid(), signal.SIGKILL)

    return die


def measure(bench: Bench) -> None:
    """Have the number format measured once: two workers that did so at the same time could come to two answers."""
    torch.set_num_threads(1)
    config, data = bench.sample()
    next(fit(config, FitData(data.train, data.val, len(data.classes)), Runtime(cache=bench.cache)))


def _options(orders: Orders) -> WorkerOptions:
    bench = orders.bench
    return WorkerOptions(
        data=bench.cells, study=orders.study, cache=bench.cache, artifacts=orders.artifacts, device="cpu",
        keep=KEEP, lease=orders.lease, db_grace=orders.db_grace,
    )  # fmt: skip


def _log_to(path: Path) -> None:
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for stream in (1, 2):
        os.dup2(file, stream)
    logging.basicConfig(format="%(relativeCreated)d %(process)d %(threadName)s %(message)s", force=True)
    logging.getLogger("sqlalchemy").setLevel(logging.WARNING)
    logging.getLogger("hpo").setLevel(logging.INFO)
    logging.getLogger("storage").setLevel(logging.INFO)
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def _end_with_parent() -> None:
    """No worker outlives the campaign, however that ends."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, name="lifeline", daemon=True).start()
