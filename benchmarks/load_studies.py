"""Run one trial with a trivial objective and time its steps: with hpo's leases, and with plain optuna."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import optuna
from optuna.trial import TrialState
from sqlalchemy import Engine, event

from hpo.data import ImageDigests
from hpo.search.strategy import make_pruner, make_sampler, sampler_for_trial
from hpo.search.trial_record import TrialProgress
from hpo.search.trial_reporter import TrialReporter
from hpo.search.worker_context import Deadline, EvictionOrder, WorkerContext, keep_best
from search_spaces import SearchSpace
from storage import Claim, Database, NoTrial, RetryPolicy, StudySpec, Worker, claim_trial, open_store

EPOCHS = 5
STEPS = ("claim", "open", "report", "tell", "tidy")
SPACE: dict[str, Any] = {
    "name": "load",
    "summary": "three parameters",
    "fixed": {"epochs": EPOCHS},
    "dimensions": {
        "learning_rate": {"type": "float", "low": 1e-4, "high": 1e-1, "log": True},
        "weight_decay": {"type": "float", "low": 1e-6, "high": 1e-2, "log": True},
        "dropout": {"type": "float", "low": 0.0, "high": 0.5},
    },
    "points": [],
}


def objective(number: int, epoch: int) -> float:
    """Return the value of trial `number` after `epoch`, so that each report can be checked."""
    return (number * 31 + epoch) % 1009 / 1009


@dataclass(frozen=True)
class Method:
    """Names of sampler and pruner, as for `hpo run`."""

    sampler: str
    pruner: str


def spec(method: Method) -> StudySpec:
    """Return the spec of a study of this benchmark."""
    return StudySpec(
        space=SPACE, space_fingerprint="0" * 64, data={}, data_fingerprint="0" * 64, metric="accuracy", seed=0,
        weights_digest=None, sampler=method.sampler, pruner=method.pruner,
    )  # fmt: skip


class Stopwatch:
    """Seconds of each step, and the statements that it sent if an engine is watched."""

    def __init__(self, engine: Engine | None = None) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.statements: dict[str, list[int]] = defaultdict(list)
        self._sent = 0
        if engine is not None:
            event.listen(engine, "before_cursor_execute", self._count)

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Record the seconds of the body, unless it raises."""
        sent, start = self._sent, time.perf_counter()
        yield
        self.seconds[step].append(time.perf_counter() - start)
        self.statements[step].append(self._sent - sent)

    def forget(self) -> None:
        """Drop all records."""
        self.seconds.clear()
        self.statements.clear()

    def _count(self, *_: Any) -> None:
        self._sent += 1


class Study(Protocol):
    """A study whose trials are measured."""

    study: optuna.Study
    engine: Engine
    watch: Stopwatch

    def run_trial(self, pause: float = 0.0) -> int | NoTrial:
        """Run one trial from start to end with `pause` seconds an epoch; return its number."""


class LeasedStudy:
    """A trial as in `hpo worker`, without training and checkpoints: the same claim, reporter and tidying."""

    def __init__(self, db: Database, study: optuna.Study, watch: Stopwatch, folder: Path, method: Method) -> None:
        self.study, self.watch, self.engine = study, watch, db.engine
        study.pruner = make_pruner(method.pruner, EPOCHS)
        self._context = WorkerContext(
            db=db, study=study, worker=Worker(device="cpu"), sampler=sampler_for_trial(method.sampler, 0),
            space=SearchSpace.from_dict(SPACE), metric="accuracy", seed=0, store=open_store(folder, "load"), keep=1,
            dataset=_no_data, cache=folder, deadline=Deadline(db, study),
            eviction=EvictionOrder(()), retry=RetryPolicy(), known=ImageDigests(),
        )  # fmt: skip

    def run_trial(self, pause: float = 0.0) -> int | NoTrial:
        """Run one trial. The pruner is asked after each epoch but the last, as in training."""
        with self.watch.timed("claim"):
            claim = claim_trial(self._context.db, self.study, self._context.worker)
        if not isinstance(claim, Claim):
            return claim
        with TrialReporter(self._context, claim) as reporter:
            with self.watch.timed("open"):
                reporter.suggest()
            for epoch in range(1, EPOCHS + 1):
                time.sleep(pause)
                self._report(reporter, claim, epoch)
            with self.watch.timed("tell"):
                reporter.tell(_progress(claim.number), TrialState.COMPLETE, None, None)
        with self.watch.timed("tidy"):
            keep_best(self._context)
        return claim.number

    def _report(self, reporter: TrialReporter, claim: Claim, epoch: int) -> None:
        reference = {"latest": f"latest-{claim.lease.token}-{epoch}", "epoch": epoch, "position": float(epoch)}
        curve = {str(done): objective(claim.number, done) for done in range(1, epoch + 1)}
        with self.watch.timed("report"):
            reporter.report(curve, reference, last=False)


class PlainStudy:
    """A trial as in the loop of optuna's tutorial: `ask`, `suggest`, `report` and `should_prune`, `tell`."""

    def __init__(self, storage: optuna.storages.RDBStorage, watch: Stopwatch, method: Method) -> None:
        self.watch, self.engine = watch, storage.engine
        sampler, chosen = make_sampler(method.sampler, 0), make_pruner(method.pruner, EPOCHS)
        self.study = optuna.create_study(study_name="load", storage=storage, sampler=sampler, pruner=chosen)

    def run_trial(self, pause: float = 0.0) -> int | NoTrial:
        """Run one trial."""
        with self.watch.timed("claim"):
            trial = self.study.ask()
        with self.watch.timed("open"):
            for name, dimension in SPACE["dimensions"].items():
                trial.suggest_float(name, dimension["low"], dimension["high"], log=dimension.get("log", False))
        for epoch in range(1, EPOCHS + 1):
            time.sleep(pause)
            with self.watch.timed("report"):
                trial.report(objective(trial.number, epoch), step=epoch)
                trial.should_prune()
        with self.watch.timed("tell"):
            self.study.tell(trial, objective(trial.number, EPOCHS))
        with self.watch.timed("tidy"):  # optuna keeps no checkpoints
            pass
        return trial.number


def _progress(number: int) -> TrialProgress:
    metrics = {"accuracy": objective(number, EPOCHS), "macro_f1": 0.5, "loss": 0.5}
    facts = {"device": "cpu", "precision": "fp32", "parameters": 1_000_000, "trainable_parameters": 1_000_000}
    return TrialProgress("accuracy", EPOCHS, metrics, EPOCHS, metrics["accuracy"], 60.0, 100.0, 0, facts)


def _no_data(_: int) -> Any:
    raise AssertionError("nothing is trained here")
