"""How one worker process is started.

The workers that `hpo run` starts on this machine: K processes of `hpo worker`, watched, replaced, stopped.

Nothing here is needed to work on a study: a worker that was started by hand, on any host, is as good as one of these.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import optuna

from hpo.search.signals import STOP_REQUEST
from storage import Database, StorageError, Worker, expire_leases

if TYPE_CHECKING:
    from types import TracebackType


@dataclass(frozen=True)
class WorkerCommand:
    """How one worker is started: its arguments after `hpo worker`, its environment, where it writes its log."""

    arguments: Sequence[str]
    environment: Mapping[str, str]
    log: Path


log = logging.getLogger(__name__)

REPLACEMENTS = 10
"""Workers that died on their own (a crash, the kernel's out-of-memory killer) are replaced this often in one run."""


@dataclass
class LocalWorkers:
    """K worker processes. Each is in a process group of its own, so that Ctrl-C reaches them through us, in order.

    Their standard input is a pipe that only we hold open: when we are killed, its end tells them to stop.
    """

    db: Database
    study: optuna.Study
    jobs: Sequence[WorkerCommand]
    died: list[str] = field(default_factory=list)
    """What happened to workers that ended badly, one line each."""
    stopping: bool = False
    _members: dict[int, tuple[WorkerCommand, subprocess.Popen[bytes]]] = field(default_factory=dict)

    def __enter__(self) -> LocalWorkers:
        """Start all workers."""
        for job in self.jobs:
            self._start(job)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave nobody behind: whoever still works is asked to stop, unless that was done, and waited for."""
        if self._members and not self.stopping:
            self.stop()
        while self._members:
            self.poll(timeout=0.1)

    @property
    def working(self) -> int:
        """Workers that have not ended."""
        return len(self._members)

    def poll(self, timeout: float = 0.0) -> None:
        """Look after workers that ended, waiting up to `timeout` seconds for the first of them."""
        for pid, (job, process) in list(self._members.items()):
            try:
                code = process.wait(timeout)
            except subprocess.TimeoutExpired:
                continue
            del self._members[pid]
            assert process.stdin is not None
            process.stdin.close()
            self._ended(job, pid, code)

    def stop(self) -> None:
        """Ask every worker to stop: the first time it puts its trial back, the second time it is killed."""
        number = signal.SIGKILL if self.stopping else STOP_REQUEST
        self.stopping = True
        for _, process in self._members.values():
            process.send_signal(number)

    def _start(self, job: WorkerCommand) -> None:
        job.log.parent.mkdir(parents=True, exist_ok=True)
        with job.log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "hpo", "worker", *job.arguments, "--lifeline"],
                env={**os.environ, **job.environment},
                stdin=subprocess.PIPE, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
        self._members[process.pid] = (job, process)
        if self.stopping:  # a signal came while we started a replacement
            process.send_signal(STOP_REQUEST)

    def _ended(self, job: WorkerCommand, pid: int, code: int) -> None:
        """A worker that died leaves its trial under a lease; its process is gone for certain, so the lease ends now."""
        if code == 0:
            return
        self._expire(pid, blame=not self.stopping)
        if self.stopping:
            return
        cause = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        self.died.append(f"worker {pid} ended with {cause}: {last_line(job.log)}")
        if code < 0 and len(self.died) <= REPLACEMENTS:
            self._start(job)

    def _expire(self, pid: int, *, blame: bool = True) -> None:
        try:
            expire_leases(self.db, self.study, Worker(pid=pid), blame=blame)
        except StorageError as error:
            log.debug("the lease of worker %d expires by itself: %s", pid, error)


def last_line(path: Path, tail: int = 4096) -> str:
    """The last line of a log, or a hint where there is none."""
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - tail))
        lines = file.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"see {path}"
