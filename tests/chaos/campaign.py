"""Campaign: real workers train a study while a schedule of faults is injected; the outcome is judged."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tests.chaos import audit
from tests.chaos.bench import Bench
from tests.chaos.crew import Crew
from tests.chaos.disk import scratch
from tests.chaos.findings import attempts_by, missing_best, unblamed, unwritten, with_poison, wrong_exits
from tests.chaos.ledger import Struck
from tests.chaos.proxy import Proxy
from tests.chaos.redone import Redone, redone
from tests.chaos.reference import fault_free
from tests.chaos.scene import Progress, Scene
from tests.chaos.schedule import (
    NEEDS_TRAINING,
    OF_FOLDERS,
    OF_ISOLATED,
    OF_S3,
    TAKES_LONG,
    Fault,
    Kind,
    Schedule,
)
from tests.chaos.second_home import SecondHome, containers_allowed
from tests.chaos.server import Server, running_server
from tests.chaos.stalls import StallWatch
from tests.chaos.steps import hold_file, read_steps
from tests.chaos.stores import Store, folder_store, s3_store
from tests.chaos.strikes import strikes_on
from tests.chaos.verify import Curve, Verdict, judge, read_curves
from tests.chaos.worker import Orders

_DATABASE = "chaos"
POISON = "poison trial kills its worker"
_TICK = 0.05  # seconds
_STUCK = 180.0
"""Seconds without a step, a report or an end of a trial after which the study counts as stuck.

Isolated workers import torch at each start, which took more than a minute on a busy machine.
"""

_ORPHANED = 10.0
"""Seconds within which the process of a trial has to end after its worker has ended."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Size:
    """Size and form of a campaign."""

    workers: int
    trials: int
    faults: int
    seed: int
    epochs: int = 5
    images: int = 160
    poison: int = 2
    """Number of trials that kill every worker which trains them and have to be failed for that."""
    lease: float = 3.0
    """Seconds."""
    pause: float = 0.4
    """Least seconds between two faults."""
    isolate: int = 0
    """Number of workers that train each trial in a process of its own."""
    store: str = "folder"
    """Place of the checkpoints: `folder` or `s3`."""

    @property
    def absent(self) -> frozenset[Kind]:
        """Kinds of fault that have no target in such a campaign."""
        return (frozenset() if self.isolate else OF_ISOLATED) | (OF_FOLDERS if self.store == "s3" else OF_S3)


@dataclass(frozen=True)
class Outcome:
    """The outcome of a campaign."""

    size: Size
    verdict: Verdict
    redone: Redone
    faults: Mapping[str, int]
    """Number of faults that hit a target, by kind."""
    wrong_exits: tuple[str, ...]
    broken: tuple[str, ...]
    """Other broken promises: about poison trials, the best checkpoints, processes, and the diary itself."""
    isolated: int
    """How often a trial was claimed and trained in a process of its own."""
    notes: tuple[str, ...]
    epochs: int
    """All epochs, without repeated ones."""
    seconds: float = 0.0

    @property
    def struck(self) -> int:
        return sum(self.faults.values())

    @property
    def failures(self) -> list[str]:
        """A message for every broken promise; the campaign passed if there is none."""
        counts = [f"{name}: {count}" for name, count in self.verdict.counts().items() if count]
        if self.redone.most > 1 + 1e-9:
            counts.append(f"repeated epochs by one fault: {self.redone.most:.2f}, but must be at most 1")
        if self.redone.unexplained:
            counts.append(
                f"repeated epochs without a fault: {self.redone.unexplained:.2f}, {self.redone.unexplained_of}"
            )
        if self.struck < 0.9 * self.size.faults:  # on a fast machine the last faults find no target
            counts.append(f"only {self.struck} of {self.size.faults} faults found a target")
        return [*counts, *self.wrong_exits, *self.broken]


def run_campaign(size: Size, folder: Path, say: Say = print) -> Outcome:
    """Run the study without faults and with faults, and compare. Logs and checkpoints are written to `folder`."""
    started = time.monotonic()
    bench = Bench(folder, size.trials, size.epochs, size.images, size.poison)
    bench.prepare()
    with running_server() as server:
        expected, steps_of_epoch = fault_free(bench, server, workers=2)
        say(f"{size.trials} trials without a fault: {time.monotonic() - started:.0f} s")
        opened = s3_store() if size.store == "s3" else folder_store(folder)
        with opened as store, _scene(bench, server, size, store) as scene:
            attack = Attack(scene, size, say)
            with StallWatch() as watch:
                attack.run()
            attack.notes += watch.notes()
            outcome = _judge(attack, scene, watch.stalls, expected, steps_of_epoch)
    return replace(outcome, seconds=time.monotonic() - started)


def _judge(
    attack: Attack, scene: Scene, stalls: Sequence[Struck], expected: Mapping[int, Curve], steps_of_epoch: int
) -> Outcome:
    """Judge a campaign that has ended."""
    size = attack.size
    struck = [*scene.ledger.struck, *(Struck(POISON, at, pid, loses=True) for at, pid in scene.crew.deaths())]
    poison = scene.bench.poison_numbers
    steps, processes = read_steps(scene.crew.orders.diary), scene.crew.trial_processes()
    isolated = attempts_by(steps, processes)
    outages = [*(fault for fault in struck if fault.name.startswith(tuple(OF_S3))), *stalls]
    wrong, excused = wrong_exits(scene.crew.exits, outages, {processes.get(step.pid, step.pid) for step in steps})
    return Outcome(
        size=size,
        verdict=judge(scene.sql, with_poison(expected, poison)),
        redone=redone(steps, [*struck, *stalls], steps_of_epoch),
        faults=dict(Counter(fault.name for fault in struck)),
        wrong_exits=tuple(wrong),
        broken=(
            *attack.broken,
            *unblamed(scene.sql, poison),
            *missing_best(scene),
            *unwritten(read_curves(scene.sql), steps),
            *(["no trial was trained in a process of its own"] if size.isolate and not isolated else []),
            *scene.second.broken(),
        ),
        isolated=isolated,
        notes=(*(f"{count} times {text}" for text, count in scene.ledger.notes.items()), *attack.notes, *excused),
        epochs=sum(len(curve.reports) for curve in expected.values()),
    )


@contextmanager
def _scene(bench: Bench, server: Server, size: Size, store: Store) -> Iterator[Scene]:
    server.create_database(_DATABASE)
    study = bench.create_study(server.url(_DATABASE))
    audit.install(server.sql(_DATABASE))
    proxy = Proxy(server.port)
    orders = Orders(
        bench, server.url(_DATABASE, proxy.port), store.root, bench.folder / "workers.log", bench.folder / "diary",
        lease=size.lease, poison=bench.poison_numbers, environment=store.environment,
    )  # fmt: skip
    crew = Crew(orders, size.workers, min(size.isolate, size.workers))
    second = SecondHome(bench.folder / "second")
    try:
        yield Scene(bench, server, _DATABASE, proxy, store, crew, study, size.lease, second)
    finally:
        crew.end()
        second.close()
        proxy.close()


class Attack:
    """Inject each fault when it is due, until all trials are finished or the study is stuck."""

    def __init__(self, scene: Scene, size: Size, say: Say) -> None:
        self._scene, self.size, self._say = scene, size, say
        self._strikes = strikes_on(scene)
        boundless = frozenset({Kind.DISK}) - size.absent if scene.store.disk is None else frozenset()
        foreign = frozenset() if containers_allowed() else frozenset({Kind.READ_ELSEWHERE})
        self._faults = iter(Schedule(size.seed, size.faults, size.workers, size.absent | boundless | foreign))
        self._next: Fault | None = next(self._faults)
        self._quiet_until = 0.0
        self._moved = (Progress(), time.monotonic())
        self.notes: list[str] = ["no file system can be mounted: no disk was filled"] if boundless else []
        self.notes += ["no container can be started: no folder was read from one"] if foreign else []
        self.broken: list[str] = []
        self.missed = 0
        self._hold = hold_file(scene.crew.orders.diary)

    def run(self) -> None:
        self._scene.crew.start()
        while not self._finished() and not self._stuck():
            self._scene.crew.tend()
            self._scene.timers.run_due()
            self._strike_if_due()
            self._keep_pace()
            time.sleep(_TICK)
        self._wait_for_exits()

    def _finished(self) -> bool:
        return self._scene.progress().finished >= self.size.trials

    def _stuck(self) -> bool:
        progress, since = self._scene.progress(), self._moved[1]
        if progress != self._moved[0]:
            self._moved = (progress, time.monotonic())
            return False
        return time.monotonic() - since > _STUCK

    def _done(self) -> float:
        """Return the share of all epochs that is reported."""
        return self._scene.progress().reports / (self.size.trials * self.size.epochs)

    def _enough(self) -> bool:
        return self._next is None or len(self._scene.ledger.struck) >= self.size.faults

    def _keep_pace(self) -> None:
        """Let training wait while it is ahead of the faults: on a busy machine a fault takes longer than its epochs."""
        ahead = 2 * self.size.workers / (self.size.trials * self.size.epochs)
        if self._next is None or self._enough() or self._scene.awaited or self._done() <= self._next.due + ahead:
            self._hold.unlink(missing_ok=True)
        else:
            self._hold.touch()

    def _strike_if_due(self) -> None:
        fault = self._next
        if fault is None or self._enough() or fault.due > self._done() or time.monotonic() < self._quiet_until:
            return
        if fault.kind in NEEDS_TRAINING:
            self._hold.unlink(missing_ok=True)
        elif fault.kind in TAKES_LONG:
            self._hold.touch()
        struck = self._strikes[fault.kind](fault)
        self.missed += not struck
        self._chronicle(f"{fault}{'' if struck else '  (no target)'}")
        self._next = next(self._faults, None)
        self._quiet_until = time.monotonic() + self.size.pause
        if fault.number % 25 == 0:
            self._say(f"fault {fault.number}, {self._scene.progress().finished} trials finished")

    def _chronicle(self, text: str) -> None:
        """Append a line to faults.log, with the time of the diary's clock."""
        with (self._scene.bench.folder / "faults.log").open("a") as file:
            file.write(f"{time.monotonic():.3f} {text}\n")

    def _wait_for_exits(self) -> None:
        """Wait until every worker has ended by itself; faults that last (a stop, an outage) end first."""
        self._hold.unlink(missing_ok=True)
        crew, deadline = self._scene.crew, time.monotonic() + 30
        crew.start_no_more()
        while (crew.members or self._scene.timers.waiting) and time.monotonic() < deadline:
            crew.tend()
            self._scene.timers.run_due()
            time.sleep(_TICK)
        if self.missed:
            self.notes.append(f"{self.missed} faults found no target and are not counted")
        if crew.members:
            self.notes.append(f"{len(crew.members)} workers had not ended 30 s after the last trial and were killed")
        else:
            self.broken += [f"the process {pid} of a trial outlived its worker" for pid in crew.orphans(_ORPHANED)]


@contextmanager
def campaign_folder(keep: Path | None) -> Iterator[Path]:
    """Yield `keep`, or a temporary folder that is removed at the end."""
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep
        return
    folder = Path(tempfile.mkdtemp(prefix="hpo-chaos-", dir=scratch()))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
