"""Crew: the worker processes, each in a slot; they are restarted when they end, and their exits are recorded."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.chaos.worker import Orders, run_worker

_SHORTEST_LIFE = 3.0
"""Seconds. A worker that ends sooner by itself found no trial to train, and is restarted with a delay."""


@dataclass
class Member:
    """One worker process."""

    slot: int
    process: BaseProcess
    started: float
    isolated: bool = False
    """Whether it trains each trial in a process of its own."""
    stopped: tuple[int, ...] = ()
    """Processes of the worker that are stopped by SIGSTOP."""
    told_to_leave: float | None = None
    """Time at which SIGTERM or SIGHUP was sent."""
    killed: bool = False
    absence: float = 0.0
    """Seconds for which the slot stays empty after the worker has ended; infinite if no worker follows."""

    @property
    def pid(self) -> int:
        pid = self.process.pid
        assert pid is not None
        return pid

    @property
    def alive(self) -> bool:
        return self.process.exitcode is None


@dataclass(frozen=True)
class Exit:
    """How a worker ended."""

    pid: int
    code: int
    lived: float
    """Seconds."""
    leaving: float | None
    """Seconds between SIGTERM or SIGHUP and the end; None if no signal was sent."""
    killed: bool
    """Whether the campaign or a poison trial killed it."""
    at: float
    """Seconds of the monotonic clock."""

    @property
    def late(self) -> bool:
        """Whether it took longer than ten seconds to end after a signal."""
        return not self.killed and self.leaving is not None and self.leaving > 10.0

    @property
    def wrong(self) -> str | None:
        """The fault of this exit, or None: hpo promises code 0 within ten seconds of a SIGTERM or SIGHUP."""
        if self.killed:
            return None
        if self.late:
            return f"worker {self.pid} took {self.leaving:.1f} s to leave after SIGTERM"
        # Before the signal handlers are installed there is no trial to requeue, and the signal may end the process.
        allowed = (0,) if self.leaving is None else (0, -signal.SIGTERM, -signal.SIGHUP)
        return None if self.code in allowed else f"worker {self.pid} ended with {self.code}"


@dataclass
class Crew:
    """`size` workers in slots, and guests beyond them."""

    orders: Orders
    size: int
    isolated: int = 0
    """Number of slots whose workers train each trial in a process of its own."""
    members: dict[int, Member] = field(default_factory=dict)
    exits: list[Exit] = field(default_factory=list)
    _due: dict[int, float] = field(default_factory=dict)
    _guests: int = 0

    def start(self) -> None:
        self._due = dict.fromkeys(range(self.size), 0.0)
        self.tend()

    def tend(self) -> None:
        """Record the workers that have ended, and start those that are due."""
        for member in [member for member in self.members.values() if not member.alive]:
            self._note_end(member)
        for slot in [slot for slot, due in self._due.items() if due <= time.monotonic()]:
            del self._due[slot]
            self._start(slot, replace(self.orders, isolate=slot < self.isolated))

    def invite(self, orders: Orders | None = None) -> Member:
        """Start one more worker beyond the slots, with `orders` of its own; it is not restarted."""
        self._guests += 1
        guest = self._start(self.size + self._guests - 1, orders or self.orders)
        guest.absence = float("inf")
        return guest

    def from_slot(self, slot: int) -> Iterator[Member]:
        """Return the running workers that are neither stopped nor told to leave, the one in `slot` first."""
        order = sorted(self.members, key=lambda other: ((other - slot) % self.size, other))
        return (m for m in [self.members[i] for i in order] if m.alive and not m.stopped and m.told_to_leave is None)

    def kill(self, member: Member, *others: int) -> None:
        """Kill a worker and its processes `others`."""
        member.killed = True
        for pid in others:
            signal_process(pid, signal.SIGKILL)
        _signal(member, signal.SIGKILL)

    def tell_to_leave(
        self, member: Member, absence: float | None = None, number: signal.Signals = signal.SIGTERM
    ) -> None:
        member.told_to_leave = time.monotonic()
        member.absence = member.absence if absence is None else absence
        _signal(member, number)

    def freeze(self, member: Member, training: int) -> None:
        """Stop a worker, and the process that trains its trial, which may be the worker itself."""
        member.stopped = tuple({member.pid: None, training: None})  # the worker first: then it starts no other
        for pid in member.stopped:
            signal_process(pid, signal.SIGSTOP)

    def thaw(self, member: Member, *only: int) -> None:
        """Continue the stopped processes of a worker, or `only` some of them."""
        going = only or member.stopped
        member.stopped = tuple(pid for pid in member.stopped if pid not in going)
        for pid in going:
            if member.alive if pid == member.pid else is_of_trial(pid):  # else the pid may be another's
                signal_process(pid, signal.SIGCONT)

    def trial_processes(self) -> dict[int, int]:
        """Return the pid of the isolated worker by the pid of each trial process that it ever started."""
        file = self.orders.trial_processes
        lines = file.read_text().splitlines() if file.exists() else []
        return {int(pid): int(worker) for pid, worker in map(str.split, lines)}

    def orphans(self, seconds: float) -> list[int]:
        """Return the trial processes that still live `seconds` after all workers have ended."""
        end = time.monotonic() + seconds
        while (left := [*filter(is_of_trial, self.trial_processes())]) and time.monotonic() < end:
            time.sleep(0.1)
        return left

    def deaths(self) -> list[tuple[float, int]]:
        """Return time and pid of each process that a poison trial killed."""
        file = self.orders.deaths
        lines = file.read_text().splitlines() if file.exists() else []
        return [(float(at), int(pid)) for at, pid in map(str.split, lines)]

    def start_no_more(self) -> None:
        """Start no more workers."""
        self._due.clear()
        for member in self.members.values():
            member.absence = float("inf")

    def end(self) -> None:
        """Kill all workers and trial processes that still live."""
        for member in self.members.values():
            if member.alive:
                self.kill(member)
            member.process.join()
        for pid in filter(is_of_trial, self.trial_processes()):
            signal_process(pid, signal.SIGKILL)

    def _start(self, slot: int, orders: Orders) -> Member:
        process = forked(run_worker, orders)
        member = Member(slot, process, time.monotonic(), orders.isolate)
        self.members[slot] = member
        return member

    def _note_end(self, member: Member) -> None:
        now, code = time.monotonic(), member.process.exitcode
        killed = member.killed or (code == -signal.SIGKILL and member.pid in {pid for _, pid in self.deaths()})
        leaving = None if member.told_to_leave is None else now - member.told_to_leave
        self.exits.append(Exit(member.pid, code or 0, now - member.started, leaving, killed, now))
        del self.members[member.slot]
        if member.absence < float("inf"):
            idle = now - member.started < _SHORTEST_LIFE and not killed
            self._due[member.slot] = now + max(member.absence, 1.0 if idle else 0.0)


def forked(target: Callable[..., None], *arguments: object) -> BaseProcess:
    """Start a process that runs `target`, forked from a server that has imported everything a worker needs."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.chaos.worker"])
    process = context.Process(target=target, args=arguments)
    process.start()
    return process


def _signal(member: Member, number: signal.Signals) -> None:
    if member.alive:  # else the pid may belong to another process by now
        signal_process(member.pid, number)


def signal_process(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process; do nothing if it has ended."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def is_of_trial(pid: int) -> bool:
    """Return whether a trial process still lives, and its pid has not been given to another program."""
    with suppress(OSError):
        return b"multiprocessing.forkserver" in Path("/proc", str(pid), "cmdline").read_bytes()
    return False
