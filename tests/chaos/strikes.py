"""Strikes: how each kind of fault is made. Each says at once whether it found something to strike at."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tests.chaos.crew import Member
from tests.chaos.proxy import Where
from tests.chaos.scene import DEATHS_ALLOWED, Scene
from tests.chaos.schedule import Fault, Kind
from tests.chaos.server import Mode

HOUR = 3600.0
_PATIENCE = 3.0
"""Seconds in which a statement that a cut waits for has to pass."""


class WorkerStrikes:
    """Faults of one worker and its files."""

    def __init__(self, scene: Scene) -> None:
        self._scene, self._crew, self._ledger = scene, scene.crew, scene.ledger

    def kill(self, fault: Fault) -> bool:
        if (victim := self._scene.frozen_victim(fault.slot)) is None:
            return False
        self._kill(victim[0], absence=2 * fault.strength)
        return True

    def term(self, fault: Fault) -> bool:
        return self._leave(fault, "SIGTERM", absence=fault.strength)

    def hang_up(self, fault: Fault) -> bool:
        return self._leave(fault, Kind.HANGUP, absence=fault.strength, number=signal.SIGHUP)

    def leave(self, fault: Fault) -> bool:
        return self._leave(fault, Kind.LEAVE, absence=5 + 10 * fault.strength)

    def stop(self, fault: Fault) -> bool:
        if (victim := self._scene.frozen_victim(fault.slot)) is None:
            return False
        member = victim[0]
        self._ledger.add(fault.kind, member.pid, loses=True)
        self._scene.timers.later(self._scene.lease * (1.3 + fault.strength), lambda: self._crew.thaw(member))
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
        damage(self._scene.newest(held.trial)[0], fault.strength)
        self._ledger.add("latest checkpoint corrupted", member.pid, loses=True)
        self._kill(member, absence=fault.strength)
        return True

    def _kill(self, member: Member, absence: float) -> None:
        member.absence = max(member.absence, absence)
        self._crew.kill(member)
        self._ledger.add(Kind.KILL, member.pid, loses=True)

    def _leave(self, fault: Fault, name: str, absence: float, number: signal.Signals = signal.SIGTERM) -> bool:
        for member, _ in self._scene.victims(fault.slot):
            self._crew.tell_to_leave(member, absence, number)
            self._ledger.add(name, member.pid)
            return True
        return False

    def _guest(self, fault: Fault, clock_off: float) -> None:
        """A worker beyond the slots; it counts once it holds a trial, and leaves some seconds later."""
        guest = self._crew.invite(replace(self._crew.orders, clock_off=clock_off))

        def leave() -> None:
            if guest.alive and guest.told_to_leave is None:  # a second signal would end it at once
                self._crew.tell_to_leave(guest)

        def look() -> None:
            if guest.pid in self._scene.held():
                self._ledger.add(fault.kind, guest.pid)
                self._scene.timers.later(3 + 5 * fault.strength, leave)
            elif guest.alive:
                self._scene.timers.later(0.3, look)

        look()


class SurroundingStrikes:
    """Faults of the database, the network and the disk."""

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
        """Copy the study, its id included, and have a worker search the copy: it must leave the files of the first."""
        name = f"copy-{fault.number}"
        scene, orders = self._scene, self._scene.crew.orders
        scene.bench.copy(scene.server.url(scene.database), name)
        apart = {"diary": orders.diary.with_name(f"diary.{name}"), "poison": frozenset()}
        scene.crew.invite(replace(orders, study=name, **apart))
        self._ledger.add(fault.kind)
        return True

    def disk(self, fault: Fault) -> bool:
        """Fill the disk until some worker says that it waits, and some seconds on."""
        disk, timers = self._scene.disk, self._scene.timers
        if disk is None:
            return False
        since = time.monotonic()

        def keep_full() -> None:
            disk.fill()
            if any(held.note for held in self._scene.held().values()):
                # Whoever has to leave before there is room again cannot save its epoch.
                seconds = 1 + 2 * fault.strength
                self._ledger.add_lasting(fault.kind, since, seconds, loses=True)
                timers.later(seconds, disk.empty)
            elif time.monotonic() < since + 15:
                timers.later(0.1, keep_full)
            else:
                disk.empty()

        keep_full()
        return True

    def home(self, fault: Fault) -> bool:
        """Something that befalls the folder of an embedded server; what comes of it is counted in the end."""
        second = self._scene.second
        drills = {
            Kind.READ_ELSEWHERE: second.read_elsewhere, Kind.HOME_COPIED: second.copy, Kind.HOME_MOVED: second.move,
        }  # fmt: skip
        drills[fault.kind]()
        self._ledger.add(fault.kind)
        return True

    def _outage(self, fault: Fault) -> float:
        """Seconds: mostly shorter than a lease; longer only where every running trial may lose its holder."""
        longest = max((held.deaths for held in self._scene.held().values()), default=0)
        return self._scene.lease * fault.strength * (1.5 if longest < DEATHS_ALLOWED else 0.5)

    def _note_outage(self, fault: Fault, seconds: float) -> None:
        """A shorter one than half a lease costs nobody anything."""
        lease = self._scene.lease
        self._ledger.add_lasting(fault.kind, time.monotonic(), seconds, loses=seconds > lease / 2)

    def _cut_at(self, fault: Fault, statement: bytes, where: Where) -> bool:
        cut = self._scene.proxy.cut_at(statement, where)
        struck = cut.struck.wait(_PATIENCE)
        self._scene.proxy.disarm()
        return self._counted(fault, struck)

    def _counted(self, fault: Fault, count: int) -> bool:
        if count:
            self._ledger.add(fault.kind)
        return bool(count)


def strikes_on(scene: Scene) -> dict[Kind, Callable[[Fault], bool]]:
    """How to make each kind of fault in `scene`."""
    workers, around = WorkerStrikes(scene), SurroundingStrikes(scene)
    return {
        Kind.KILL: workers.kill, Kind.TERM: workers.term, Kind.STOP: workers.stop, Kind.LEAVE: workers.leave,
        Kind.JOIN: workers.join, Kind.CLOCK: workers.clock, Kind.CORRUPT: workers.corrupt,
        Kind.DISK: around.disk, Kind.FAST: around.restart, Kind.IMMEDIATE: around.restart,
        Kind.BACKEND: around.backend, Kind.CUT: around.cut, Kind.BEFORE_COMMIT: around.cut_commit,
        Kind.AFTER_COMMIT: around.cut_commit, Kind.BEFORE_WRITE: around.cut_write,
        Kind.REFUSED: around.refused, Kind.SILENT: around.silent, Kind.COPY: around.copy,
        Kind.HANGUP: workers.hang_up, Kind.READ_ELSEWHERE: around.home, Kind.HOME_COPIED: around.home,
        Kind.HOME_MOVED: around.home,
    }  # fmt: skip


def damage(version: Path, strength: float) -> None:
    """Flip a byte of one of the files of a checkpoint, or cut its end off."""
    files = sorted(path for path in version.iterdir() if path.is_file() and path.stat().st_size)
    draw = random.Random(strength)
    victim = draw.choice(files)
    content = bytearray(victim.read_bytes())
    place = draw.randrange(len(content))
    content[place] ^= 0xFF
    victim.write_bytes(content[:place] if draw.random() < 0.3 else content)
