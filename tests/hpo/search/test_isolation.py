"""Workers as real processes, stopped, frozen, killed: through the command, each trial in a process of its own."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from optuna.trial import TrialState

from hpo.search import isolation
from hpo.search.isolation import IsolatedWorkerOptions, work_isolated
from hpo.search.worker import WorkResult
from search_spaces import SearchSpace
from storage import Control, LeaseInfo, lease_infos, set_control
from storage.workers import is_alive
from tests.hpo.search.conftest import Bench

pytestmark = pytest.mark.postgres

SOON = 60.0


def eventually(condition: Callable[[], object]) -> None:
    end = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


@pytest.fixture
def tiny_space(tiny_space: SearchSpace) -> SearchSpace:
    """Return a space with so many epochs that a test can interrupt a trial."""
    return tiny_space.with_fixed({"epochs": 400})


Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start(bench: Bench, cells: Path) -> Iterator[Start]:
    """Start a worker; its log is worker.log."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*options: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "hpo", "worker", str(cells), "--study", "tiny", "--home", str(bench.folder)]
        environment = {**os.environ, "HPO_STORAGE": bench.db.url.render_as_string(hide_password=False)}
        with (bench.folder / "worker.log").open("ab") as log:
            worker = subprocess.Popen(
                [*command, "--lease", "2s", "--threads", "1", "--device", "cpu", *options],
                env=environment, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        started.append(worker)
        return worker

    yield start
    for worker in started:
        if worker.poll() is None:
            os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()


def held_lease(bench: Bench) -> LeaseInfo | None:
    return next((h for h in lease_infos(bench.db, bench.study) if h.state == "held"), None)


def under_way(bench: Bench) -> LeaseInfo:
    """Return the lease of the running trial, once it is in its second epoch."""

    def begun() -> bool:
        held = held_lease(bench)
        return held is not None and held.position > 1

    eventually(begun)
    held = held_lease(bench)
    assert held is not None
    return held


def state(bench: Bench) -> TrialState:
    return bench.db.storage.get_all_trials(bench.study._study_id)[0].state


@pytest.mark.slow
@pytest.mark.parametrize("isolation", ["--isolate", "--no-isolate"])
def test_sigterm_requeues_the_trial_in_the_middle_of_an_epoch_and_exits_with_0(
    bench: Bench, start: Start, isolation: str
) -> None:
    worker = start(isolation)
    under_way(bench)
    begun = time.monotonic()
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(SOON) == 0
    assert time.monotonic() - begun < 10
    assert state(bench) == TrialState.WAITING
    (left,) = lease_infos(bench.db, bench.study)
    assert left.state == "free"
    assert left.position > 1


@pytest.mark.slow
def test_a_killed_trial_resumes_in_another_process_of_the_same_worker(bench: Bench, start: Start) -> None:
    worker = start("--isolate", "--lease", "10m")
    held = under_way(bench)
    pid = int(held.owner.rpartition(":")[2])
    assert pid != worker.pid
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: (now := held_lease(bench)) is not None and now.attempts == 2 and now.position >= held.position)
    assert worker.poll() is None
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(SOON) == 0


@pytest.mark.slow
def test_a_worker_suspended_for_longer_than_its_lease_drops_its_trial(bench: Bench, start: Start) -> None:
    suspended = start("--no-isolate")
    held = under_way(bench)
    suspended.send_signal(signal.SIGSTOP)
    other = start("--no-isolate")
    eventually(lambda: (now := held_lease(bench)) is not None and now.owner != held.owner)
    suspended.send_signal(signal.SIGCONT)
    eventually(lambda: b"trial 0 is dropped" in (bench.folder / "worker.log").read_bytes())
    for worker in (suspended, other):
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(SOON) == 0
    log = (bench.folder / "worker.log").read_bytes()
    assert b"failed" not in log


def test_a_pause_is_obeyed_and_ended_and_a_stop_ends_the_worker(bench: Bench, start: Start) -> None:
    worker = start("--no-isolate")
    under_way(bench)
    set_control(bench.db, bench.study, Control.PAUSE)
    eventually(lambda: state(bench) == TrialState.WAITING)
    assert worker.poll() is None
    set_control(bench.db, bench.study, Control.RUN)
    eventually(lambda: state(bench) == TrialState.RUNNING)
    set_control(bench.db, bench.study, Control.STOP)
    assert worker.wait(SOON) == 0
    assert state(bench) == TrialState.WAITING


def test_the_notice_of_a_preemption_is_obeyed(bench: Bench, start: Start, tmp_path: Path) -> None:
    notice = tmp_path / "preempted"
    worker = start("--no-isolate", "--preempt-file", str(notice))
    under_way(bench)
    notice.touch()
    assert worker.wait(SOON) == 0
    assert state(bench) == TrialState.WAITING


@pytest.mark.slow
def test_a_trial_ends_with_its_worker(bench: Bench, start: Start) -> None:
    worker = start("--isolate")
    pid = int(under_way(bench).owner.rpartition(":")[2])
    worker.kill()
    eventually(lambda: state(bench) == TrialState.WAITING)
    eventually(lambda: not is_alive(pid))
    assert b"Traceback" not in (bench.folder / "worker.log").read_bytes()


def test_only_the_first_process_of_a_worker_ends_where_the_store_is_unreachable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes = iter([None, WorkResult(0, over=False), WorkResult(1, over=True)])
    checked: list[bool] = []

    def run_process(options: IsolatedWorkerOptions, _: object) -> WorkResult | None:
        checked.append(options.artifacts_checked)
        return next(outcomes)

    monkeypatch.setattr(isolation, "_run_process", run_process)
    options = IsolatedWorkerOptions(
        data=tmp_path, study="tiny", cache=tmp_path, artifacts=tmp_path, device="cpu", storage=None, home=tmp_path,
        threads=1, verbosity=logging.INFO,
    )  # fmt: skip
    assert work_isolated(options) == 1
    assert checked == [False, False, True]


@pytest.mark.slow
def test_a_worker_under_nohup_survives_the_end_of_its_terminal(bench: Bench, start: Start) -> None:
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        worker = start("--isolate")
    finally:
        signal.signal(signal.SIGHUP, former)
    before = under_way(bench)
    os.killpg(worker.pid, signal.SIGHUP)

    def further() -> bool:
        held = held_lease(bench)
        return held is not None and held.position > before.position + 1

    eventually(further)
    held = held_lease(bench)
    assert held is not None
    assert (held.owner, held.attempts) == (before.owner, before.attempts)
    worker.terminate()
    assert worker.wait(30) == 0
