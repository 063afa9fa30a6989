"""Reference: the same study without a fault, trained by the same program on a database of its own."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from tests.chaos import audit
from tests.chaos.bench import Bench
from tests.chaos.crew import Crew, forked
from tests.chaos.server import Server
from tests.chaos.steps import read_steps
from tests.chaos.verify import Curve, compare, read_curves
from tests.chaos.worker import Orders, measure

_DATABASE = "reference"


def fault_free(
    bench: Bench, server: Server, *, workers: int, timeout: float = 1800.0
) -> tuple[Mapping[int, Curve], int]:
    """Return the curve by trial number, and the number of steps in an epoch. Raises RuntimeError after `timeout` s."""
    _measure(bench)
    server.create_database(_DATABASE)
    bench.create_study(server.url(_DATABASE))
    sql = server.sql(_DATABASE)
    audit.install(sql)
    diary = bench.folder / "reference.diary"
    orders = Orders(
        bench, server.url(_DATABASE), bench.folder / "reference-artifacts",
        bench.folder / "reference.log", diary, lease=60.0,
    )  # fmt: skip
    _run(Crew(orders, workers), timeout, orders.log)
    curves = {curve.number: curve for curve in read_curves(sql)}
    _check(curves, bench, compare(list(curves.values()), audit.notes(sql), curves).details)
    return curves, _steps_of_epoch(diary)


def _measure(bench: Bench) -> None:
    measuring = forked(measure, bench)
    measuring.join()
    if measuring.exitcode:
        raise RuntimeError("a training step of the bench cannot be measured")


def _run(crew: Crew, timeout: float, log: Path) -> None:
    crew.start()
    crew.start_no_more()
    deadline = time.monotonic() + timeout
    try:
        while crew.members:
            crew.tend()
            time.sleep(0.05)
            if time.monotonic() > deadline:
                raise RuntimeError(f"the run without faults has not finished after {timeout:g} s; see {log}")
    finally:
        crew.end()
    if wrong := [ended.wrong for ended in crew.exits if ended.wrong]:
        raise RuntimeError(f"the run without faults: {'; '.join(wrong)}; see {log}")


def _check(curves: Mapping[int, Curve], bench: Bench, wrong: object) -> None:
    if wrong or set(curves) != set(range(bench.trials)):
        raise RuntimeError(f"the run without faults is itself wrong: {len(curves)} trials, {wrong}")


def _steps_of_epoch(diary: Path) -> int:
    return len(
        {step.position for step in read_steps(diary) if step.trial == 0 and step.position and step.position <= 1}
    )
