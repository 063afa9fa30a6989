"""Crew: the worker processes, each in a slot, started again when they end, and what they ended with."""

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
"""Seconds: a worker that ends sooner by itself found nothing left to do, and is not started again at once."""


@dataclass
class Member:
    """One worker process."""

    slot: int
    process: BaseProcess
    started: float
    isolated: bool = False
    """Whether it trains each trial in a process of its own."""
    stopped: tuple[int, ...] = ()
    """Its processes that are stopped by SIGSTOP."""
    told_to_leave: float | None = None
    """When SIGTERM or SIGHUP was sent."""
    killed: bool = False
    absence: float = 0.0
    """Seconds for which its slot stays empty after it; infinite if no other follows."""

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
    """Seconds between SIGTERM and the end; None where it was sent none."""
    killed: bool
    """By the campaign, or by a trial that is poison."""
    at: float
    """Seconds of the monotonic clock."""

    @property
    def late(self) -> bool:
        """Whether it took longer to leave than promised."""
        return not self.killed and self.leaving is not None and self.leaving > 10.0

    @property
    def wrong(self) -> str | None:
        """What is wrong with it: hpo promises 0, within ten seconds of a SIGTERM or SIGHUP."""
        if self.killed:
            return None
        if self.late:
            return f"worker {self.pid} took {self.leaving:.1f} s to leave after SIGTERM"
        # Before its handlers stand there is nothing to put back, and the signal may simply end it.
        allowed = (0,) if self.leaving is None else (0, -signal.SIGTERM, -signal.SIGHUP)
        return None if self.code in allowed else f"worker {self.pid} ended with {self.code}"


@dataclass
class Crew:
    """As many workers as `size`, and guests beyond that."""

    orders: Orders
    size: int
    isolated: int = 0
    """So many of the slots are of workers that train each trial in a process of its own."""
    members: dict[int, Member] = field(default_factory=dict)
    exits: list[Exit] = field(default_factory=list)
    _due: dict[int, float] = field(default_factory=dict)
    _guests: int = 0

    def start(self) -> None:
        self._due = dict.fromkeys(range(self.size), 0.0)
        self.tend()

    def tend(self) -> None:
        """Record which workers have ended, and start those that are due."""
        for member in [member for member in self.members.values() if not member.alive]:
            self._note_end(member)
        for slot in [slot for slot, due in self._due.items() if due <= time.monotonic()]:
            del self._due[slot]
            self._start(slot, replace(self.orders, isolate=slot < self.isolated))

    def invite(self, orders: Orders | None = None) -> Member:
        """One more worker, beyond the slots, with `orders` of its own; no other follows it."""
        self._guests += 1
        guest = self._start(self.size + self._guests - 1, orders or self.orders)
        guest.absence = float("inf")
        return guest

    def from_slot(self, slot: int) -> Iterator[Member]:
        """All living workers that run, the one in `slot` first."""
        order = sorted(self.members, key=lambda other: ((other - slot) % self.size, other))
        return (m for m in [self.members[i] for i in order] if m.alive and not m.stopped and m.told_to_leave is None)

    def kill(self, member: Member, *others: int) -> None:
        """Kill a worker and `others` of its processes."""
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
        member.stopped = tuple({member.pid: None, training: None})  # the worker first: it starts no other then
        for pid in member.stopped:
            signal_process(pid, signal.SIGSTOP)

    def thaw(self, member: Member, *only: int) -> None:
        """Let what was stopped of a worker go on, or `only` some of its processes."""
        going = only or member.stopped
        member.stopped = tuple(pid for pid in member.stopped if pid not in going)
        for pid in going:
            if member.alive if pid == member.pid else is_of_trial(pid):  # else it may be another's number by now
                signal_process(pid, signal.SIGCONT)

    def trial_processes(self) -> dict[int, int]:
        """From the processes of trials to the isolated workers that started them, of all that there have been."""
        file = self.orders.trial_processes
        lines = file.read_text().splitlines() if file.exists() else []
        return {int(pid): int(worker) for pid, worker in map(str.split, lines)}

    def orphans(self, seconds: float) -> list[int]:
        """Processes of trials that live on, `seconds` after all workers have ended."""
        end = time.monotonic() + seconds
        while (left := [*filter(is_of_trial, self.trial_processes())]) and time.monotonic() < end:
            time.sleep(0.1)
        return left

    def deaths(self) -> list[tuple[float, int]]:
        """When which process was killed by a trial that is poison."""
        file = self.orders.deaths
        lines = file.read_text().splitlines() if file.exists() else []
        return [(float(at), int(pid)) for at, pid in map(str.split, lines)]

    def nobody_follows(self) -> None:
        """Start no worker from now on: there is nothing left to do."""
        self._due.clear()
        for member in self.members.values():
            member.absence = float("inf")

    def end(self) -> None:
        """End all that still live, and forget them."""
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
    """A process that runs `target`, forked from one that has imported all that a worker needs, and started nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.chaos.worker"])
    process = context.Process(target=target, args=arguments)
    process.start()
    return process


def _signal(member: Member, number: signal.Signals) -> None:
    if member.alive:  # else the number may be another process's by now
        signal_process(member.pid, number)


def signal_process(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process, which may have ended a moment ago."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def is_of_trial(pid: int) -> bool:
    """Whether a process that was one of a trial still is: it has not ended, and no other has its number now."""
    with suppress(OSError):
        return b"multiprocessing.forkserver" in Path("/proc", str(pid), "cmdline").read_bytes()
    return False
