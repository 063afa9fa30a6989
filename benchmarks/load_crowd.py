"""Run many worker processes on one study at once, and check the trials that they leave."""

from __future__ import annotations

import multiprocessing
import queue
import time
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from sqlalchemy import text

from benchmarks.load_studies import EPOCHS, LeasedStudy, Method, Stopwatch, objective, spec
from storage import Database, Limits, NoTrial, create_study, open_database, open_study, quiet_optuna

NAME = "crowd"
_WARM = "warm"
STANDBY = 0.2
"""Seconds between two attempts of a worker to claim a trial while others finish the last ones."""

_TRIALS = text(
    """
    SELECT t.number, t.state::text, l.state AS lease, l.takings,
           (SELECT jsonb_object_agg(v.step, v.intermediate_value)
            FROM trial_intermediate_values v WHERE v.trial_id = t.trial_id) AS reports
    FROM trials t LEFT JOIN hpo_leases l ON l.trial_id = t.trial_id WHERE t.study_id = :study
    """
)
_OWN_SESSIONS = 1
"""Sessions of this process: that of optuna's storage; the counting session does not count itself."""
_SESSIONS = text(
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
    "AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
)

WorkerResult = tuple[list[int], dict[str, list[float]], float, str | None]
"""Numbers of the trials told by a worker, seconds of each step, seconds of processor time, and its error."""


@dataclass(frozen=True)
class Orders:
    """Settings of each worker."""

    url: str
    folder: Path
    method: Method
    pause: float


@dataclass
class Account:
    """Results from the workers and from the database."""

    workers: int
    trials: int
    wall: float = 0.0
    """Seconds from the moment at which all workers were connected to the last tell."""
    processor: float = 0.0
    """Seconds of processor time of the workers, without the server's."""
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    told: list[int] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    sessions: int = 0
    """Most connections at once of all workers together."""
    finished: int = 0
    wrong: dict[str, int] = field(default_factory=dict)
    """Counts that must be 0."""


def run_crowd(db: Database, url: str, folder: Path, workers: int, trials: int, method: Method, pause: float) -> Account:
    """Run `workers` processes on a new study of `trials` trials."""
    study = create_study(db, NAME, spec(method), limits=Limits(trials=trials))
    create_study(db, _WARM, spec(method))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.load_crowd"])
    barrier, results = context.Barrier(workers + 1), context.Queue()
    orders = Orders(url, folder, method, pause)
    for _ in range(workers):
        context.Process(target=_work, args=(orders, barrier, results), daemon=True).start()
    barrier.wait(timeout=300)
    account = Account(workers, trials)
    start = time.perf_counter()
    for _ in range(workers):
        _add_result(account, _next(results, db, account))
    account.wall = time.perf_counter() - start
    _audit(account, db, study)
    return account


def _work(orders: Orders, barrier: Any, results: Any) -> None:
    """Run a worker until there are no trials; put its results, or its error, into `results`."""
    quiet_optuna()
    try:
        results.put(_take_trials(orders, barrier))
    except BaseException:
        barrier.abort()  # so that no process waits for this one
        raise


def _take_trials(orders: Orders, barrier: Any) -> WorkerResult:
    watch, told, error = Stopwatch(), [], None
    with open_database(orders.url, home=orders.folder / "unused") as db:
        # A first trial in another study, because SQLAlchemy compiles each statement once in a process.
        LeasedStudy(db, open_study(db, _WARM), watch, orders.folder, orders.method).run_trial()
        watch.forget()
        study = LeasedStudy(db, open_study(db, NAME), watch, orders.folder, orders.method)
        barrier.wait(timeout=300)
        used = time.process_time()
        try:
            while (found := study.run_trial(orders.pause)) is not NoTrial.SPENT:
                if isinstance(found, NoTrial):
                    time.sleep(STANDBY)
                else:
                    told.append(found)
        except Exception as caught:  # noqa: BLE001 - counted as an error of the run
            error = f"{type(caught).__name__}: {caught}"
        used = time.process_time() - used
    return told, dict(watch.seconds), used, error


def _next(results: Any, db: Database, account: Account) -> Any:
    """Return the results of the next worker that ends, and count connections meanwhile."""
    while True:
        with db.engine.connect() as connection:  # this connection is not counted
            found = connection.execute(_SESSIONS).scalar_one()
        account.sessions = max(account.sessions, found - _OWN_SESSIONS)
        with suppress(queue.Empty):
            return results.get(timeout=0.5)


def _add_result(account: Account, result: WorkerResult) -> None:
    told, seconds, used, error = result
    account.told += told
    account.processor += used
    for step, values in seconds.items():
        account.seconds[step] += values
    if error is not None:
        account.errors.append(error)


def _audit(account: Account, db: Database, study: optuna.Study) -> None:
    """Compare the workers' results with the database, and both with the requested trials."""
    with db.engine.connect() as connection:
        rows = connection.execute(_TRIALS, {"study": study._study_id}).all()
    whole = [row for row in rows if row.state == "COMPLETE" and row.reports == _expected(row.number)]
    account.finished = len(whole)
    times = Counter(account.told)
    account.wrong = {
        "lost": account.trials - len({row.number for row in whole}),
        "duplicated": sum(1 for count in times.values() if count > 1) + len(rows) - len({row.number for row in rows}),
        "beyond the cap": max(0, len(rows) - account.trials),
        "wrong reports": sum(row.reports != _expected(row.number) for row in rows),
        "taken more than once": sum(row.takings != 1 for row in rows),
        "leases not ended": sum(row.lease != "ended" for row in rows),
        "never told": len({row.number for row in rows} - set(times)),
        "errors": len(account.errors),
    }


def _expected(number: int) -> dict[str, float]:
    return {str(epoch): objective(number, epoch) for epoch in range(1, EPOCHS + 1)}
