"""What becomes of workers and their trials when processes die."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from optuna.trial import TrialState

from hpo.search.team import Job, Team, last_line, settle_orphans
from tests.hpo.search.conftest import Bench

DEAD = 2**22 + 1
"""No process has this number: it is above the kernel's limit."""


def running_trial(bench: Bench, owner: str) -> int:
    trial = bench.study.ask()
    trial.set_user_attr("worker", owner)
    return trial.number


@pytest.mark.postgres
def test_the_trial_of_a_dead_worker_is_failed_with_the_reason_and_no_other_is_touched(bench: Bench) -> None:
    host = socket.gethostname()
    orphan = running_trial(bench, f"{host}:{DEAD}")
    neighbour = running_trial(bench, f"{host}:{os.getpid()}")
    elsewhere = running_trial(bench, f"another-{host}:{DEAD}")
    settle_orphans(bench.study, DEAD, "its worker died: signal SIGKILL")
    trials = bench.study.get_trials()
    assert trials[orphan].state == TrialState.FAIL
    assert trials[orphan].user_attrs["reason"] == "its worker died: signal SIGKILL"
    assert [trials[n].state for n in (neighbour, elsewhere)] == [TrialState.RUNNING] * 2


@pytest.mark.postgres
def test_the_trial_of_a_worker_that_was_told_to_leave_at_once_is_put_back(bench: Bench) -> None:
    orphan = running_trial(bench, f"{socket.gethostname()}:{DEAD}")
    settle_orphans(bench.study, DEAD, None)
    assert bench.study.get_trials()[orphan].state == TrialState.WAITING
    assert bench.study.ask().number == orphan


@pytest.mark.postgres
def test_a_worker_that_ends_badly_is_told_with_the_last_line_of_its_log(bench: Bench, tmp_path: Path) -> None:
    job = Job(["nowhere", "--study", "tiny"], {"HPO_HOME": str(tmp_path)}, tmp_path / "logs" / "worker-0.log")
    with Team(bench.study, [job]) as team:
        while team.working:
            team.poll(timeout=5)
    (told,) = team.died
    assert "exit code 2" in told
    assert "nowhere: no such file or folder" in told


def test_a_worker_stops_when_its_parent_is_gone() -> None:
    program = (
        "import time; from hpo.search.worker import StopSignal, stop_with_parent\n"
        "with StopSignal().installed() as stop:\n"
        "    stop_with_parent()\n"
        "    while not stop.received: time.sleep(0.01)\n"
        "    print(stop.received)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        printed, _ = child.communicate(timeout=60)  # closes its standard input, as our death would
    assert (child.returncode, printed.strip()) == (0, "SIGTERM")


def test_a_second_signal_ends_a_worker_at_once() -> None:
    program = (
        "import os, signal; from hpo.search.worker import StopSignal\n"
        "with StopSignal().installed():\n"
        "    os.kill(os.getpid(), signal.SIGTERM); os.kill(os.getpid(), signal.SIGTERM); print('still here')"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert (ended.returncode, ended.stdout) == (128 + signal.SIGTERM, "")


def test_the_last_line_of_a_log_is_found_and_an_empty_one_is_named(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    log.write_text("first\n" + "x" * 10_000 + "\nlast words\n\n")
    assert last_line(log) == "last words"
    log.write_text("")
    assert last_line(log) == f"see {log}"
