"""A worker process that kills itself at the n-th moment of one operation; `statement_kills` enumerates the moments.

A moment is the time before a statement, before a COMMIT or after it, of any engine and any thread of the process. For
the database the moment after a statement is the same as the one before the next statement.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from sqlalchemy import Engine, event
from sqlalchemy.dialects.postgresql.psycopg2 import PGDialect_psycopg2

import hpo.search.trial as trial_module
from hpo.data import Dataset, ImageDigests
from hpo.data.dataset import Part
from hpo.interruption import TrainingInterrupted
from hpo.search.strategy import sampler_for_trial
from hpo.search.trial import run_trial
from hpo.search.worker_context import Deadline, EvictionOrder, WorkerContext
from hpo.training import SNAPSHOT_VERSION, EpochResult, Snapshot
from search_spaces import SearchSpace
from storage import Claim, Database, RetryPolicy, Worker, claim_trial, open_database, open_store, open_study, read_spec

STUDY = "kills"
EPOCHS = 2
Operation = Literal["claim", "train", "release"]


@dataclass(frozen=True)
class Order:
    """Do `operation` and die at its moment number `moment`, from 1."""

    url: str
    artifacts: Path
    operation: Operation
    moment: int


class Trap:
    """Counts moments once it is set, and kills the process at moment number `moment`."""

    def __init__(self, moment: int) -> None:
        self._left = moment
        self._set = False
        self._lock = threading.Lock()
        event.listen(Engine, "before_cursor_execute", lambda *_: self.passed())
        commit = PGDialect_psycopg2.do_commit

        def watched(dialect: Any, connection: Any) -> None:
            self.passed()
            commit(dialect, connection)
            self.passed()

        PGDialect_psycopg2.do_commit = watched  # type: ignore[method-assign]

    def set(self) -> None:
        self._set = True

    def passed(self) -> None:
        with self._lock:
            self._left -= self._set
            if self._set and self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


def carry_out(order: Order) -> None:
    """Run a worker that dies during an operation; the process ends with 0 when it survives."""
    trap = Trap(order.moment)
    stopping = threading.Event()

    def stop() -> None:
        trap.set()
        stopping.set()

    with open_database(order.url, home=order.artifacts / "unused") as db:
        context = worker_context(db, order.artifacts, stopping.is_set)
        if order.operation == "claim":
            trap.set()
        claim = claim_trial(db, context.study, context.worker)
        assert isinstance(claim, Claim), claim
        if order.operation == "train":
            trap.set()
        if order.operation != "claim":
            train(context, claim, stop if order.operation == "release" else None)
    os._exit(0)


def train(context: WorkerContext, claim: Claim, after_first: Callable[[], None] | None = None) -> None:
    """Call the real `run_trial` with a `fit` that computes nothing: its values depend on number and epoch alone."""
    trial_module.fit = _body(claim.number, after_first)
    run_trial(context, claim)


def value(number: int, epoch: int) -> float:
    """Return the value that trial `number` reports after `epoch`."""
    return number + epoch / 7


def _body(number: int, after_first: Callable[[], None] | None) -> Any:
    def fit(config: Any, data: Any, runtime: Any, resume: Snapshot | None = None) -> Any:
        for epoch in range(resume.state["epoch"] + 1 if resume else 1, EPOCHS + 1):
            if runtime.should_stop():
                raise TrainingInterrupted("stopped between two epochs")
            yield _result(number, epoch)
            if after_first is not None:
                after_first()

    return fit


def _result(number: int, epoch: int) -> EpochResult:
    return EpochResult(
        epoch=epoch, last=epoch == EPOCHS, train_loss=0.0, metrics={"accuracy": value(number, epoch)},
        logits=None, learning_rate=0.1, seconds=1.0, images_per_second=1.0, peak_memory=1, facts={},
        weights=lambda: b"weights", snapshot=lambda: Snapshot(b"resume", {"version": SNAPSHOT_VERSION, "epoch": epoch}),
    )  # fmt: skip


def worker_context(db: Database, artifacts: Path, stopping: Callable[[], bool] = lambda: False) -> WorkerContext:
    """Return the context of a worker, with a data set of one image."""
    opened = open_study(db, STUDY)
    spec = read_spec(opened)
    return WorkerContext(
        db=db, study=opened, worker=Worker(device="cpu"), sampler=sampler_for_trial("random", spec.seed),
        space=SearchSpace.from_dict(spec.space), metric="accuracy", seed=spec.seed,
        store=open_store(artifacts, spec.id), keep=5, dataset=lambda _: one_image(), cache=artifacts,
        deadline=Deadline(db, opened), eviction=EvictionOrder(()), retry=RetryPolicy(5.0, stopping),
        known=ImageDigests.of(one_image()),
    )  # fmt: skip


def one_image() -> Dataset:
    image, rows, labels = np.zeros((1, 32, 32, 3), np.uint8), np.zeros(1, np.int64), np.zeros(1, np.int64)
    part = Part(image, rows, labels, ("image.png",))
    return Dataset(train=part, val=part, classes=("one",), image_size=32, fingerprint="0" * 64, split="made")
