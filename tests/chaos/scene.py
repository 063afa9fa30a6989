"""Scene: everything that faults act on, and who holds which trial there."""

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
"""A third death in a row without an epoch between is by definition the trial's own fault, and tested by itself."""

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
    """The process that trains it: the worker, or where that is isolated the process of the trial."""
    trial: int
    deaths: int
    note: str | None


@dataclass(frozen=True)
class Progress:
    """How far the study is."""

    reports: int = 0
    finished: int = 0
    position: float = 0.0


@dataclass
class Scene:
    """One study under fire."""

    bench: Bench
    server: Server
    database: str
    proxy: Proxy
    store: Store
    crew: Crew
    study: str
    """The id that the study's checkpoints lie under."""
    lease: float
    second: SecondHome
    ledger: Ledger = field(default_factory=Ledger)
    timers: Timers = field(default_factory=Timers)
    _progress: Progress = Progress()

    @property
    def sql(self) -> Sql:
        return self.server.sql(self.database)

    def held(self) -> dict[int, Held]:
        """From the worker to the trial that it holds, as the database has it. What a dead process held is left out."""
        workers = self.crew.trial_processes()
        return {workers.get(row[0], row[0]): Held(*row) for row in self.sql(_HELD) if is_alive(row[0])}

    def progress(self) -> Progress:
        """How far the study is; what was seen last, while the server restarts."""
        with suppress(psycopg2.Error):
            self._progress = Progress(*self.sql(_PROGRESS)[0])
        return self._progress

    def victims(self, slot: int) -> Iterator[tuple[Member, Held]]:
        """Workers that hold a trial, the one in `slot` first."""
        held = self.held()
        return ((member, held[member.pid]) for member in self.crew.from_slot(slot) if member.pid in held)

    def frozen_victim(self, slot: int, *, epochs: float = 0.0, isolated: bool = False) -> tuple[Member, Held] | None:
        """A worker that holds a trial which may lose one more holder, stopped, so that nothing changes any more.

        With `epochs` checkpoints and more, where that is asked for; one that is isolated, where that is. Whoever is
        passed over goes on.
        """
        for member, before in self.victims(slot):
            if isolated and not member.isolated:
                continue
            self.crew.freeze(member, before.pid)
            time.sleep(0.02)  # a COMMIT that was under way arrives
            held = self.held().get(member.pid)
            if held is not None and held.pid != before.pid:  # the next process had begun before the worker was stopped
                held = None
            if held is not None and held.deaths < DEATHS_ALLOWED and self._checkpoints(held.trial) >= epochs:
                return member, held
            if held is not None and held.deaths >= DEATHS_ALLOWED:
                self.ledger.notes["a victim whose trial had lost two holders without an epoch between was spared"] += 1
            self.crew.thaw(member)
        return None

    def _checkpoints(self, trial: int) -> int:
        return len(self.store.open(self.study).names(trial, "latest"))
