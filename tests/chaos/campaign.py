"""Campaign: a study by real workers, a schedule of faults upon it, and what came of it."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from storage import CheckpointError, open_store
from tests.chaos import audit
from tests.chaos.bench import Bench
from tests.chaos.crew import Crew
from tests.chaos.disk import SmallDisk, scratch, small_disk
from tests.chaos.ledger import Struck
from tests.chaos.proxy import Proxy
from tests.chaos.redone import Redone, redone
from tests.chaos.reference import fault_free
from tests.chaos.scene import Progress, Scene
from tests.chaos.schedule import Fault, Kind, Schedule
from tests.chaos.second_home import SecondHome, containers_allowed
from tests.chaos.server import Server, running_server
from tests.chaos.sql import Sql
from tests.chaos.steps import read_steps
from tests.chaos.strikes import strikes_on
from tests.chaos.verify import Curve, Verdict, judge, read_curves
from tests.chaos.worker import KEEP, Orders

_DATABASE = "chaos"
POISON = "poison trial kills its worker"
_TICK = 0.05  # seconds
_STUCK = 60.0
"""Seconds without a step, a report or an end of a trial after which the study counts as stuck."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Size:
    """How large a campaign is."""

    workers: int
    trials: int
    faults: int
    seed: int
    epochs: int = 5
    images: int = 160
    poison: int = 2
    """Trials that kill every worker which trains them, and have to be failed for it."""
    lease: float = 3.0
    """Seconds."""
    pause: float = 0.4
    """Seconds at least between two faults."""


@dataclass(frozen=True)
class Outcome:
    """What came of a campaign."""

    size: Size
    verdict: Verdict
    redone: Redone
    faults: Mapping[str, int]
    """Those that struck, by kind."""
    wrong_exits: tuple[str, ...]
    broken: tuple[str, ...]
    """What else was not kept: of poison trials, and of the best checkpoints."""
    notes: tuple[str, ...]
    seconds: float
    epochs: int
    """In all, without those redone."""

    @property
    def struck(self) -> int:
        return sum(self.faults.values())

    @property
    def failures(self) -> list[str]:
        """Every promise that was not kept, in words; none is a campaign passed."""
        counts = [f"{name}: {count}" for name, count in self.verdict.counts().items() if count]
        if self.redone.most > 1 + 1e-9:
            counts.append(f"epochs redone by one fault: {self.redone.most:.2f}, but at most 1")
        if self.redone.unexplained:
            counts.append(f"epochs redone without a fault: {self.redone.unexplained:.2f}, {self.redone.unexplained_of}")
        if self.struck < 0.9 * self.size.faults:  # a quick machine runs out of victims before the last ones
            counts.append(f"only {self.struck} of {self.size.faults} faults found a victim")
        return [*counts, *self.wrong_exits, *self.broken]


def run_campaign(size: Size, folder: Path, say: Say = print) -> Outcome:
    """Run the study without faults, then under fire, and compare. Logs and checkpoints lie in `folder`."""
    started = time.monotonic()
    bench = Bench(folder, size.trials, size.epochs, size.images, size.poison)
    bench.prepare()
    with running_server() as server:
        expected, steps_of_epoch = fault_free(bench, server, workers=2)
        say(f"{size.trials} trials without a fault: {time.monotonic() - started:.0f} s")
        with small_disk(folder / "disk") as disk, _scene(bench, server, size, disk) as scene:
            attack = Attack(scene, size, say)
            attack.run()
            scene.ledger.struck += [Struck(POISON, at, pid, loses=True) for at, pid in scene.crew.deaths()]
            verdict = judge(scene.sql, with_poison(expected, bench.poison_numbers))
            costs = redone(read_steps(scene.crew.orders.diary), scene.ledger.struck, steps_of_epoch)
            return Outcome(
                size=size, verdict=verdict, redone=costs, faults=dict(scene.ledger.by_kind()),
                wrong_exits=tuple(ended.wrong for ended in scene.crew.exits if ended.wrong),
                broken=(*unblamed(scene.sql, bench.poison_numbers), *missing_best(scene), *scene.second.broken()),
                notes=(*(f"{count} times {text}" for text, count in scene.ledger.notes.items()), *attack.notes),
                seconds=time.monotonic() - started, epochs=sum(len(curve.reports) for curve in expected.values()),
            )  # fmt: skip


def with_poison(expected: Mapping[int, Curve], poison: frozenset[int]) -> dict[int, Curve]:
    """The curves of a run without faults, but for the trials that are poison: they fail after their first epoch."""
    return {
        number: replace(curve, state="FAIL", value=None, reports={1: curve.reports[1]}) if number in poison else curve
        for number, curve in expected.items()
    }


def unblamed(sql: Sql, poison: frozenset[int]) -> list[str]:
    """The poison trials that have not failed with the deaths of their workers as the reason, in words."""
    rows = sql(
        "SELECT number FROM trials JOIN trial_user_attributes USING (trial_id) "
        "WHERE study_id = (SELECT min(study_id) FROM studies) AND key = 'reason' AND value_json LIKE '%worker died%'"
    )
    blamed = {number for (number,) in rows}
    return [f"poison trial {number} was not failed for killing its workers" for number in sorted(poison - blamed)]


def missing_best(scene: Scene) -> list[str]:
    """The best complete trials, of those that workers keep, whose checkpoint is missing or damaged, in words.

    A copy of the study with the same id, or a tidying worker of it, would remove them.
    """
    complete = [curve for curve in read_curves(scene.sql) if curve.state == "COMPLETE" and curve.value is not None]
    best = sorted(complete, key=lambda curve: curve.value or 0.0, reverse=True)[:KEEP]
    store = open_store(scene.files.parent, scene.files.name)
    missing = []
    for curve in best:
        try:
            store.read(curve.number, "best")
        except CheckpointError as error:
            missing.append(f"trial {curve.number} is among the best, but {error}")
    return missing


@contextmanager
def _scene(bench: Bench, server: Server, size: Size, disk: SmallDisk | None) -> Iterator[Scene]:
    server.create_database(_DATABASE)
    study = bench.found(server.url(_DATABASE))
    audit.install(server.sql(_DATABASE))
    proxy = Proxy(server.port)
    artifacts = disk.artifacts if disk else bench.folder / "artifacts"
    orders = Orders(
        bench, server.url(_DATABASE, proxy.port), artifacts, bench.folder / "workers.log",
        bench.folder / "diary", lease=size.lease, poison=bench.poison_numbers,
    )  # fmt: skip
    crew = Crew(orders, size.workers)
    second = SecondHome(bench.folder / "second")
    try:
        yield Scene(bench, server, _DATABASE, proxy, disk, crew, artifacts / study, size.lease, second)
    finally:
        crew.end()
        second.close()
        proxy.close()


class Attack:
    """Faults as they become due, until all trials are finished or nothing moves any more."""

    def __init__(self, scene: Scene, size: Size, say: Say) -> None:
        self._scene, self._size, self._say = scene, size, say
        self._strikes = strikes_on(scene)
        without = frozenset() if scene.disk else frozenset({Kind.DISK})
        foreign = frozenset() if containers_allowed() else frozenset({Kind.READ_ELSEWHERE})
        self._faults = iter(Schedule(size.seed, size.faults, size.workers, without | foreign))
        self._next: Fault | None = next(self._faults)
        self._quiet_until = 0.0
        self._moved = (Progress(), time.monotonic())
        self.notes: list[str] = ["no file system can be mounted here: the disk was never full"] if without else []
        self.notes += ["no container can be made here: no folder was read from another"] if foreign else []
        self.missed = 0

    def run(self) -> None:
        self._scene.crew.start()
        while not self._finished() and not self._stuck():
            self._scene.crew.tend()
            self._scene.timers.run_due()
            self._strike_if_due()
            time.sleep(_TICK)
        self._let_them_go()

    def _finished(self) -> bool:
        return self._scene.progress().finished >= self._size.trials

    def _stuck(self) -> bool:
        progress, since = self._scene.progress(), self._moved[1]
        if progress != self._moved[0]:
            self._moved = (progress, time.monotonic())
            return False
        return time.monotonic() - since > _STUCK

    def _strike_if_due(self) -> None:
        fault = self._next
        done = self._scene.progress().reports / (self._size.trials * self._size.epochs)
        enough = len(self._scene.ledger.struck) >= self._size.faults
        if fault is None or enough or fault.due > done or time.monotonic() < self._quiet_until:
            return
        struck = self._strikes[fault.kind](fault)
        self.missed += not struck
        self._chronicle(f"{fault}{'' if struck else '  (no victim)'}")
        self._next = next(self._faults, None)
        self._quiet_until = time.monotonic() + self._size.pause
        if fault.number % 25 == 0:
            self._say(f"fault {fault.number}, {self._scene.progress().finished} trials finished")

    def _chronicle(self, text: str) -> None:
        """Note what happened, by the clock of the diary."""
        with (self._scene.bench.folder / "faults.log").open("a") as file:
            file.write(f"{time.monotonic():.3f} {text}\n")

    def _let_them_go(self) -> None:
        """Every worker is to leave by itself now; whatever still lasts (a stop, an outage) ends first."""
        crew, deadline = self._scene.crew, time.monotonic() + 30
        crew.nobody_follows()
        while (crew.members or self._scene.timers.waiting) and time.monotonic() < deadline:
            crew.tend()
            self._scene.timers.run_due()
            time.sleep(_TICK)
        if self.missed:
            self.notes.append(f"{self.missed} faults found no victim, and are not counted")
        if crew.members:
            self.notes.append(f"{len(crew.members)} workers had not left 30 s after the last trial, and were killed")


@contextmanager
def campaign_folder(keep: Path | None) -> Iterator[Path]:
    """`keep`, or a folder that is removed in the end."""
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep
        return
    folder = Path(tempfile.mkdtemp(prefix="hpo-chaos-", dir=scratch()))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
