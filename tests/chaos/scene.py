"""Scene: everything that faults act on, and which worker holds which trial."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import psycopg2

from storage.workers import is_alive
from tests.chaos.bench import Bench
from tests.chaos.crew import Crew, Member
from tests.chaos.ledger import Ledger, Timers
from tests.chaos.proxy import Proxy
from tests.chaos.second_home import SecondHome
from tests.chaos.server import Server
from tests.chaos.sql import Sql
from tests.chaos.stores import Store

DEATHS_ALLOWED = 2
"""A third death in a row without an epoch between fails the trial as poison, which has tests of its own."""

_HELD = """
SELECT l.pid, t.number, l.deaths, l.note FROM hpo_leases l JOIN trials t USING (trial_id)
WHERE l.state = 'held' AND t.state = 'RUNNING' AND t.study_id = (SELECT min(study_id) FROM studies)
"""
_PROGRESS = """
WITH first AS (SELECT trial_id, state FROM trials WHERE study_id = (SELECT min(study_id) FROM studies))
SELECT (SELECT count(*) FROM first JOIN trial_intermediate_values USING (trial_id)),
       (SELECT count(*) FROM first WHERE state NOT IN ('RUNNING', 'WAITING')),
       (SELECT coalesce(sum(position), 0) FROM first JOIN hpo_leases USING (trial_id))
"""


@dataclass(frozen=True)
class Held:
    """A trial that a worker holds."""

    pid: int
    """The process that trains it: the worker, or the trial's process if the worker is isolated."""
    trial: int
    deaths: int
    note: str | None


@dataclass(frozen=True)
class Progress:
    """Progress of the study."""

    reports: int = 0
    finished: int = 0
    position: float = 0.0


@dataclass
class Scene:
    """One study into which faults are injected."""

    bench: Bench
    server: Server
    database: str
    proxy: Proxy
    store: Store
    crew: Crew
    study: str
    """The id under which the study's checkpoints are stored."""
    lease: float
    second: SecondHome
    ledger: Ledger = field(default_factory=Ledger)
    timers: Timers = field(default_factory=Timers)
    awaited: int = 0
    """Number of faults that last until a worker meets them; training must not be held meanwhile."""
    _progress: Progress = Progress()

    @property
    def sql(self) -> Sql:
        return self.server.sql(self.database)

    def held(self) -> dict[int, Held]:
        """Return by worker the trial that it holds according to the database, without trials of dead processes."""
        workers = self.crew.trial_processes()
        return {workers.get(row[0], row[0]): Held(*row) for row in self.sql(_HELD) if is_alive(row[0])}

    def progress(self) -> Progress:
        """Return the progress of the study; the last known one while the server restarts."""
        with suppress(psycopg2.Error):
            self._progress = Progress(*self.sql(_PROGRESS)[0])
        return self._progress

    def victims(self, slot: int) -> Iterator[tuple[Member, Held]]:
        """Return the workers that hold a trial, the one in `slot` first."""
        held = self.held()
        return ((member, held[member.pid]) for member in self.crew.from_slot(slot) if member.pid in held)

    def frozen_victim(self, slot: int, *, epochs: float = 0.0, isolated: bool = False) -> tuple[Member, Held] | None:
        """Stop and return a worker whose trial may lose one more owner without being failed as poison.

        The trial has at least `epochs` checkpoints; with `isolated` the worker is an isolated one. Workers that do not
        qualify are continued.
        """
        for member, before in self.victims(slot):
            if isolated and not member.isolated:
                continue
            self.crew.freeze(member, before.pid)
            time.sleep(0.02)  # time for a COMMIT on its way to arrive
            held = self.held().get(member.pid)
            if held is not None and held.pid != before.pid:  # the next trial's process was started first
                held = None
            if held is not None and held.deaths < DEATHS_ALLOWED and self._checkpoints(held.trial) >= epochs:
                return member, held
            if held is not None and held.deaths >= DEATHS_ALLOWED:
                self.ledger.notes["a target was spared whose trial had lost two owners without an epoch between"] += 1
            self.crew.thaw(member)
        return None

    def _checkpoints(self, trial: int) -> int:
        return len(self.store.open(self.study).names(trial, "latest"))
