"""Local workers: a worker that dies is replaced and its lease ends."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hpo.search.local_workers import LocalWorkers, WorkerCommand, last_line
from storage import Claim, Worker, claim_trial, lease_infos
from tests.hpo.search.conftest import Bench

DEAD = 2**22 + 1
"""No process has this number: it is above the kernel's limit."""


@pytest.mark.postgres
def test_the_trial_of_a_dead_worker_is_free_at_once_and_no_other_is_touched(bench: Bench) -> None:
    claims = [
        claim_trial(bench.db, bench.study, who) for who in (Worker(pid=DEAD), Worker(), Worker(host="x", pid=DEAD))
    ]
    claim = claims[0]
    assert isinstance(claim, Claim)
    with LocalWorkers(bench.db, bench.study, []) as workers:
        workers._expire_lease(DEAD)
    assert [holding.left > 0 for holding in lease_infos(bench.db, bench.study)] == [False, True, True]
    again = bench.claim()
    assert (again.number, again.lease.deaths) == (claim.number, 1)


@pytest.mark.postgres
def test_a_worker_that_fails_is_reported_with_the_last_line_of_its_log(bench: Bench, tmp_path: Path) -> None:
    command = WorkerCommand(
        ["nowhere", "--study", "tiny"], {"HPO_HOME": str(tmp_path)}, tmp_path / "logs" / "worker-0.log"
    )
    with LocalWorkers(bench.db, bench.study, [command]) as workers:
        while workers.working:
            workers.poll(timeout=5)
    (report,) = workers.died
    assert "exit code 2" in report
    assert "nowhere: no such file or folder" in report


def test_a_worker_stops_when_its_parent_is_gone() -> None:
    program = (
        "import time; from hpo.search.signals import StopSignal, stop_with_parent\n"
        "with StopSignal().installed() as stop:\n"
        "    stop_with_parent()\n"
        "    while not stop.received: time.sleep(0.01)\n"
        "    print(stop.received)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        printed, _ = child.communicate(timeout=60)  # closes its standard input, as the death of this process would
    assert (child.returncode, printed.strip()) == (0, "asked to stop")


def test_a_second_signal_ends_a_worker_at_once() -> None:
    program = (
        "import os, signal; from hpo.search.signals import StopSignal\n"
        "with StopSignal().installed():\n"
        "    os.kill(os.getpid(), signal.SIGTERM); os.kill(os.getpid(), signal.SIGTERM); print('still here')"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert (ended.returncode, ended.stdout) == (128 + signal.SIGTERM, "")


def test_the_last_line_of_a_log_is_returned_or_where_an_empty_log_is(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    log.write_text("first\n" + "x" * 10_000 + "\nlast words\n\n")
    assert last_line(log) == "last words"
    log.write_text("")
    assert last_line(log) == f"see {log}"
