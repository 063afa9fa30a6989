"""Strikes: inject each kind of fault. Each function returns at once whether the fault found a target."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import replace

from tests.chaos.crew import Member, signal_process
from tests.chaos.proxy import Proxy, Where
from tests.chaos.scene import DEATHS_ALLOWED, Held, Scene
from tests.chaos.schedule import Fault, Kind
from tests.chaos.server import Mode

HOUR = 3600.0
_PATIENCE = 3.0
"""Seconds within which the statement that a cut waits for has to pass."""


class WorkerStrikes:
    """Faults of one worker and its files."""

    def __init__(self, scene: Scene) -> None:
        self._scene, self._crew, self._ledger = scene, scene.crew, scene.ledger

    def kill(self, fault: Fault) -> bool:
        if (victim := self._scene.frozen_victim(fault.slot)) is None:
            return False
        self._kill(*victim, absence=2 * fault.strength)
        return True

    def kill_trial(self, fault: Fault) -> bool:
        """Kill the process of a trial: its worker has to notice and to requeue the trial at once."""
        if (victim := self._scene.frozen_victim(fault.slot, isolated=True)) is None:
            return False
        member, held = victim
        signal_process(held.pid, signal.SIGKILL)
        self._crew.thaw(member)
        self._ledger.add(fault.kind, held.pid, loses=True, trial=held.trial)
        return True

    def kill_parent(self, fault: Fault) -> bool:
        """Kill an isolated worker: the trial's process has to requeue it, with a checkpoint of the current step."""
        if (victim := self._scene.frozen_victim(fault.slot, isolated=True)) is None:
            return False
        member, held = victim
        self._crew.thaw(member, held.pid)
        member.absence = max(member.absence, 2 * fault.strength)
        self._crew.kill(member)
        self._ledger.add(fault.kind, held.pid)
        return True

    def term(self, fault: Fault) -> bool:
        return self._leave(fault, "SIGTERM", absence=fault.strength)

    def hang_up(self, fault: Fault) -> bool:
        return self._leave(fault, Kind.HANGUP, absence=fault.strength, number=signal.SIGHUP)

    def leave(self, fault: Fault) -> bool:
        return self._leave(fault, Kind.LEAVE, absence=5 + 10 * fault.strength)

    def stop(self, fault: Fault) -> bool:
        """Stop a worker, and the process of its trial if that is another."""
        if (victim := self._scene.frozen_victim(fault.slot)) is None:
            return False
        self._let_sleep(fault, *victim, loses=True)
        return True

    def stop_trial(self, fault: Fault) -> bool:
        if (victim := self._scene.frozen_victim(fault.slot, isolated=True)) is None:
            return False
        member, held = victim
        self._crew.thaw(member, member.pid)
        self._let_sleep(fault, member, held, loses=True)
        return True

    def stop_parent(self, fault: Fault) -> bool:
        """Stop an isolated worker alone: the process of its trial goes on, and loses nothing."""
        if (victim := self._scene.frozen_victim(fault.slot, isolated=True)) is None:
            return False
        member, held = victim
        self._crew.thaw(member, held.pid)
        self._let_sleep(fault, member, held, loses=False)
        return True

    def join(self, fault: Fault) -> bool:
        self._guest(fault, clock_off=0.0)
        return True

    def clock(self, fault: Fault) -> bool:
        self._guest(fault, clock_off=HOUR if fault.strength < 0.5 else -HOUR)
        return True

    def corrupt(self, fault: Fault) -> bool:
        if (victim := self._scene.frozen_victim(fault.slot, epochs=1)) is None:
            return False
        member, held = victim
        self._scene.store.damage(self._scene.study, held.trial, fault.strength)
        self._ledger.add("latest checkpoint corrupted", held.pid, loses=True, trial=held.trial)
        self._kill(member, held, absence=fault.strength)
        return True

    def _let_sleep(self, fault: Fault, member: Member, held: Held, *, loses: bool) -> None:
        """Continue the stopped processes of a worker after longer than a lease."""
        self._ledger.add(fault.kind, held.pid, loses=loses, trial=held.trial)
        self._scene.timers.later(self._scene.lease * (1.3 + fault.strength), lambda: self._crew.thaw(member))

    def _kill(self, member: Member, held: Held, absence: float) -> None:
        """Kill a worker, and the process of its trial if that is another."""
        member.absence = max(member.absence, absence)
        self._crew.kill(member, held.pid)
        self._ledger.add(Kind.KILL, held.pid, loses=True, trial=held.trial)

    def _leave(self, fault: Fault, name: str, absence: float, number: signal.Signals = signal.SIGTERM) -> bool:
        for member, _ in self._scene.victims(fault.slot):
            self._crew.tell_to_leave(member, absence, number)
            self._ledger.add(name, member.pid)
            return True
        return False

    def _guest(self, fault: Fault, clock_off: float) -> None:
        """Start a worker beyond the slots; the fault counts once it holds a trial, and it ends some seconds later."""
        guest = self._crew.invite(replace(self._crew.orders, clock_off=clock_off))

        def leave() -> None:
            if guest.alive and guest.told_to_leave is None:  # a second signal would end it at once
                self._crew.tell_to_leave(guest)

        def check() -> None:
            if guest.pid in self._scene.held():
                self._ledger.add(fault.kind, guest.pid)
                self._scene.timers.later(3 + 5 * fault.strength, leave)
            elif guest.alive:
                self._scene.timers.later(0.3, check)

        check()


class SurroundingStrikes:
    """Faults of the database, the network, the disk and the object store."""

    def __init__(self, scene: Scene) -> None:
        self._scene, self._ledger = scene, scene.ledger

    def restart(self, fault: Fault) -> bool:
        mode: Mode = "fast" if fault.kind == Kind.FAST else "immediate"
        self._scene.server.restart(mode)
        self._ledger.add(fault.kind)
        return True

    def backend(self, fault: Fault) -> bool:
        count = None if fault.strength > 0.7 else 1
        return self._counted(fault, self._scene.server.terminate_backends(self._scene.database, count))

    def cut(self, fault: Fault) -> bool:
        return self._counted(fault, self._scene.proxy.cut_all())

    def cut_commit(self, fault: Fault) -> bool:
        return self._cut_at(fault, b"COMMIT", "before" if fault.kind == Kind.BEFORE_COMMIT else "after")

    def cut_write(self, fault: Fault) -> bool:
        statements = (b"INSERT INTO trial_intermediate_values", b"UPDATE hpo_leases", b"INSERT INTO", b"SELECT")
        statement = statements[int(fault.strength * len(statements))]
        return self._cut_at(fault, statement, "before" if fault.strength * 10 % 1 < 0.5 else "after")

    def refused(self, fault: Fault) -> bool:
        seconds = self._outage(fault)
        self._scene.proxy.refuse()
        self._scene.timers.later(seconds, self._scene.proxy.admit)
        self._note_outage(fault, seconds)
        return True

    def silent(self, fault: Fault) -> bool:
        seconds = self._outage(fault)
        self._scene.proxy.fall_silent()
        self._scene.timers.later(seconds, self._scene.proxy.speak)
        self._note_outage(fault, seconds)
        return True

    def copy(self, fault: Fault) -> bool:
        """Copy the study with its id, and let a worker search the copy: it must not touch the original's files."""
        name = f"copy-{fault.number}"
        scene, orders = self._scene, self._scene.crew.orders
        scene.bench.copy(scene.server.url(scene.database), name)
        apart = {"diary": orders.diary.with_name(f"diary.{name}"), "poison": frozenset()}
        scene.crew.invite(replace(orders, study=name, **apart))
        self._ledger.add(fault.kind)
        return True

    def disk(self, fault: Fault) -> bool:
        """Fill the disk until a worker reports that it waits, and for some seconds more."""
        disk = self._scene.store.disk
        if disk is None:
            return False
        self._until_a_worker_waits(fault, disk.fill, disk.empty)
        return True

    def store_refused(self, fault: Fault) -> bool:
        """Let the object store refuse connections until a worker reports that it waits, and for some seconds more."""
        proxy = self._scene.store.proxy
        if proxy is None:
            return False
        proxy.refuse()
        self._until_a_worker_waits(fault, lambda: None, proxy.admit)
        return True

    def store_silent(self, fault: Fault) -> bool:
        """Silence the object store for seconds: a worker that ends meanwhile cannot save its epoch."""
        proxy, seconds = self._scene.store.proxy, 1 + 3 * fault.strength
        if proxy is None:
            return False
        proxy.fall_silent()
        self._scene.timers.later(seconds, proxy.speak)
        self._ledger.add_lasting(fault.kind, time.monotonic(), seconds, loses=True)
        return True

    def store_cut(self, fault: Fault) -> bool:
        """Cut an upload before it arrives or before it is answered: it is repeated, and costs nothing."""
        proxy = self._scene.store.proxy
        return proxy is not None and self._cut_at(fault, b"PUT", "before" if fault.strength < 0.5 else "after", proxy)

    def _until_a_worker_waits(self, fault: Fault, press: Callable[[], None], release: Callable[[], None]) -> None:
        """Call `press` until a worker reports that it waits for its checkpoints, and `release` some seconds later.

        A worker that has to end before the release cannot save its epoch.
        """
        timers, since = self._scene.timers, time.monotonic()
        self._scene.awaited += 1

        def check() -> None:
            press()
            if any(held.note for held in self._scene.held().values()):
                self._scene.awaited -= 1
                seconds = 1 + 2 * fault.strength
                self._ledger.add_lasting(fault.kind, since, seconds, loses=True)
                timers.later(seconds, release)
            elif time.monotonic() < since + 15:
                timers.later(0.1, check)
            else:
                self._scene.awaited -= 1
                self._ledger.add_lasting(f"{fault.kind}, and no worker waited", since, 0.0, loses=True)
                release()

        check()

    def home(self, fault: Fault) -> bool:
        """Run a drill on the folder of the embedded server; its outcome is checked at the end."""
        second = self._scene.second
        drills = {
            Kind.READ_ELSEWHERE: second.read_elsewhere, Kind.HOME_COPIED: second.copy, Kind.HOME_MOVED: second.move,
        }  # fmt: skip
        drills[fault.kind]()
        self._ledger.add(fault.kind)
        return True

    def _outage(self, fault: Fault) -> float:
        """Return seconds: mostly shorter than a lease; longer only if every running trial may lose its owner."""
        longest = max((held.deaths for held in self._scene.held().values()), default=0)
        return self._scene.lease * fault.strength * (1.5 if longest < DEATHS_ALLOWED else 0.5)

    def _note_outage(self, fault: Fault, seconds: float) -> None:
        """Record an outage; one shorter than half a lease costs no trial a step."""
        lease = self._scene.lease
        self._ledger.add_lasting(fault.kind, time.monotonic(), seconds, loses=seconds > lease / 2)

    def _cut_at(self, fault: Fault, statement: bytes, where: Where, proxy: Proxy | None = None) -> bool:
        proxy = proxy or self._scene.proxy
        cut = proxy.cut_at(statement, where)
        struck = cut.struck.wait(_PATIENCE)
        proxy.disarm()
        return self._counted(fault, struck)

    def _counted(self, fault: Fault, count: int) -> bool:
        if count:
            self._ledger.add(fault.kind)
        return bool(count)


def strikes_on(scene: Scene) -> dict[Kind, Callable[[Fault], bool]]:
    """Return the function that injects each kind of fault into `scene`."""
    workers, around = WorkerStrikes(scene), SurroundingStrikes(scene)
    return {
        Kind.KILL: workers.kill, Kind.TERM: workers.term, Kind.STOP: workers.stop, Kind.LEAVE: workers.leave,
        Kind.JOIN: workers.join, Kind.CLOCK: workers.clock, Kind.CORRUPT: workers.corrupt,
        Kind.DISK: around.disk, Kind.FAST: around.restart, Kind.IMMEDIATE: around.restart,
        Kind.BACKEND: around.backend, Kind.CUT: around.cut, Kind.BEFORE_COMMIT: around.cut_commit,
        Kind.AFTER_COMMIT: around.cut_commit, Kind.BEFORE_WRITE: around.cut_write,
        Kind.REFUSED: around.refused, Kind.SILENT: around.silent, Kind.COPY: around.copy,
        Kind.HANGUP: workers.hang_up, Kind.READ_ELSEWHERE: around.home, Kind.HOME_COPIED: around.home,
        Kind.HOME_MOVED: around.home, Kind.KILL_TRIAL: workers.kill_trial, Kind.KILL_PARENT: workers.kill_parent,
        Kind.STOP_TRIAL: workers.stop_trial, Kind.STOP_PARENT: workers.stop_parent,
        Kind.STORE_REFUSED: around.store_refused, Kind.STORE_SILENT: around.store_silent,
        Kind.STORE_CUT: around.store_cut,
    }  # fmt: skip
