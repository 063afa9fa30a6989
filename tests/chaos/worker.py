"""The program of a worker: the real `work()` with the real engine, forked from a process that has imported torch.

A start then takes a tenth of a second in place of four, and hundreds of workers are killed. No part of hpo is replaced:
`run_trial` and `fit` are wrapped to keep a diary, and the clock is shifted if the schedule says so. An isolated worker
starts a fork server of its own, as `hpo worker --isolate` does, and the process of each of its trials keeps the diary.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import timm  # noqa: F401 - here so that the fork has it
import torch

import hpo.search.trial as trial_module
import hpo.search.worker as worker_module
from hpo.errors import HpoError
from hpo.search.isolation import IsolatedWorkerOptions, work_isolated
from hpo.search.worker import WorkerOptions, work
from hpo.training import FitData, Runtime, fit
from storage import StorageError, open_database
from tests.chaos.bench import STUDY, Bench
from tests.chaos.clock import shift_clock
from tests.chaos.steps import Diary

KEEP = 2
"""Number of best trials whose checkpoints are kept."""


@dataclass(frozen=True)
class Orders:
    """Settings with which a worker is started."""

    bench: Bench
    url: str
    artifacts: Path | str
    log: Path
    diary: Path
    lease: float
    """Seconds."""
    db_grace: float = 120.0
    clock_off: float = 0.0
    """Seconds by which its wall clock is wrong."""
    study: str = STUDY
    poison: frozenset[int] = frozenset()
    """Numbers of the trials that kill their process in the second epoch, as a crash in a kernel would."""
    isolate: bool = False
    """Whether the worker trains each trial in a process of its own."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Environment variables by which it reaches the artifacts."""

    @property
    def deaths(self) -> Path:
        """The file with a line «time process» for each death by a poison trial."""
        return self.diary.with_name("deaths")

    @property
    def trial_processes(self) -> Path:
        """The file with a line «process worker» for each trial process of an isolated worker."""
        return self.diary.with_name("trial-processes")


@dataclass(frozen=True, kw_only=True)
class WatchedOptions(IsolatedWorkerOptions):
    """Options that an isolated worker passes to each trial's process, which starts its diary when it unpickles them.

    `hpo.search.isolation` passes them through a pipe, so unpickling is the first thing that happens in that process.
    """

    orders: Orders
    worker: int
    """Pid of the worker."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        append_line(self.orders.trial_processes, f"{os.getpid()} {self.worker}")
        keep_diary(self.orders)


def run_worker(orders: Orders) -> None:
    """Run a worker's process; it ends with the exit code of `hpo worker`."""
    os.setpgid(0, 0)
    os.environ.update(orders.environment)
    _log_to(orders.log)
    end_with_parent()
    try:
        finished = _work_isolated(orders) if orders.isolate else _work(orders)
    except (HpoError, StorageError) as error:
        logging.getLogger("hpo").error("%s: %s", type(error).__name__, error)
        sys.exit(2)
    logging.getLogger("hpo").info("%d trials finished by this worker", finished)


def _work(orders: Orders) -> int:
    torch.set_num_threads(1)
    keep_diary(orders)
    with open_database(orders.url, home=orders.bench.folder / "unused", start_timeout=60.0) as db:
        return work(db, WorkerOptions(**_options(orders))).finished


def _work_isolated(orders: Orders) -> int:
    return work_isolated(
        WatchedOptions(
            **_options(orders), storage=orders.url, home=orders.bench.folder / "unused", threads=1,
            verbosity=logging.INFO, orders=orders, worker=os.getpid(),
        )
    )  # fmt: skip


def keep_diary(orders: Orders) -> None:
    """Record every training step of this process from now on, and shift its clock as ordered."""
    if orders.clock_off:
        shift_clock(orders.clock_off)
    diary = Diary(orders.diary, orders.bench.numbers(), _deadly(orders))
    worker_module.run_trial = diary.noting_claims(worker_module.run_trial)
    trial_module.fit = diary.noting_steps(trial_module.fit)


def append_line(file: Path, line: str) -> None:
    """Append a line with one write, so that neither a kill nor another process tears it."""
    with file.open("a") as opened:
        opened.write(f"{line}\n")


def _deadly(orders: Orders) -> Callable[[int, float], None]:
    """Return a function to call after each step: it kills the process in the second epoch of a poison trial."""

    def die(trial: int, position: float) -> None:
        if trial in orders.poison and position > 1:
            append_line(orders.deaths, f"{time.monotonic():.6f} {os.getpid()}")
            os.kill(os.getpid(), signal.SIGKILL)

    return die


def measure(bench: Bench) -> None:
    """Measure the compute format once: two workers that measure at the same time could choose differently."""
    torch.set_num_threads(1)
    config, data = bench.sample()
    next(fit(config, FitData(data.train, data.val, len(data.classes)), Runtime(cache=bench.cache)))


def _options(orders: Orders) -> dict[str, Any]:
    bench = orders.bench
    return {
        "data": bench.cells, "study": orders.study, "cache": bench.cache, "artifacts": orders.artifacts,
        "device": "cpu", "keep": KEEP, "lease": orders.lease, "db_grace": orders.db_grace,
    }  # fmt: skip


def _log_to(path: Path) -> None:
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for stream in (1, 2):
        os.dup2(file, stream)
    logging.basicConfig(format="%(relativeCreated)d %(process)d %(threadName)s %(message)s", force=True)
    logging.getLogger("sqlalchemy").setLevel(logging.WARNING)
    logging.getLogger("hpo").setLevel(logging.INFO)
    logging.getLogger("storage").setLevel(logging.INFO)
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def end_with_parent() -> None:
    """End this process when the campaign's process ends, even by a kill."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, name="lifeline", daemon=True).start()
