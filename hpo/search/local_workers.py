"""The workers that `hpo run` starts on this machine: processes of `hpo worker`, watched, replaced, stopped.

A study needs none of this: a worker that was started by hand, on any host, is as good as one of these.
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
from types import TracebackType

import optuna

from hpo.search.signals import STOP_REQUEST
from storage import Database, StorageError, Worker, expire_leases

log = logging.getLogger(__name__)

REPLACEMENTS = 10
"""How often, in one run, a worker is replaced that died on its own (a crash, the kernel's out-of-memory killer)."""


@dataclass(frozen=True)
class WorkerCommand:
    """How one worker is started."""

    arguments: Sequence[str]
    """The arguments after `hpo worker`."""
    environment: Mapping[str, str]
    log: Path
    """The file that its output is appended to."""


@dataclass
class LocalWorkers:
    """Worker processes, each in a process group of its own, so that Ctrl-C reaches them through this process, in order.

    Their standard input is a pipe that only this process holds open: when it is killed, the pipe's end asks them to
    stop.
    """

    db: Database
    study: optuna.Study
    commands: Sequence[WorkerCommand]
    died: list[str] = field(default_factory=list)
    """How workers died, one line each."""
    stopping: bool = False
    """Whether the workers were asked to stop."""
    _members: dict[int, tuple[WorkerCommand, subprocess.Popen[bytes]]] = field(default_factory=dict)

    def __enter__(self) -> LocalWorkers:
        """Start all workers."""
        for command in self.commands:
            self._start(command)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ask the workers that still run to stop, unless that was done, and wait for them."""
        if self._members and not self.stopping:
            self.stop()
        while self._members:
            self.poll(timeout=0.1)

    @property
    def working(self) -> int:
        """Number of workers that have not ended."""
        return len(self._members)

    def poll(self, timeout: float = 0.0) -> None:
        """Handle the workers that have ended, waiting up to `timeout` seconds for each that has not."""
        for pid, (command, process) in list(self._members.items()):
            try:
                code = process.wait(timeout)
            except subprocess.TimeoutExpired:
                continue
            del self._members[pid]
            assert process.stdin is not None
            process.stdin.close()
            self._handle_exit(command, pid, code)

    def stop(self) -> None:
        """Ask every worker to requeue its trial and to leave; the second time, kill it."""
        number = signal.SIGKILL if self.stopping else STOP_REQUEST
        self.stopping = True
        for _, process in self._members.values():
            process.send_signal(number)

    def _start(self, command: WorkerCommand) -> None:
        command.log.parent.mkdir(parents=True, exist_ok=True)
        with command.log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "hpo", "worker", *command.arguments, "--lifeline"],
                env={**os.environ, **command.environment},
                stdin=subprocess.PIPE, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
        self._members[process.pid] = (command, process)
        if self.stopping:  # a signal came while the replacement was started
            process.send_signal(STOP_REQUEST)

    def _handle_exit(self, command: WorkerCommand, pid: int, code: int) -> None:
        """End the lease of a worker that died, which is gone for certain, and replace the worker."""
        if code == 0:
            return
        self._expire_lease(pid)
        if self.stopping:
            return
        cause = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        self.died.append(f"worker {pid} ended with {cause}: {last_line(command.log)}")
        if code < 0 and len(self.died) <= REPLACEMENTS:
            self._start(command)

    def _expire_lease(self, pid: int) -> None:
        try:
            # A worker that was killed by the second stop is not to blame for its death.
            expire_leases(self.db, self.study, Worker(pid=pid), blame=not self.stopping)
        except StorageError as error:
            log.debug("the lease of worker %d expires by itself: %s", pid, error)


def last_line(path: Path, tail: int = 4096) -> str:
    """Return the last line of a log, or where the log is, if it is empty; at most `tail` bytes are read."""
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - tail))
        lines = file.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"see {path}"
