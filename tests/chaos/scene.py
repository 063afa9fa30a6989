"""Scene: everything that faults act on, and who holds which trial there."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psycopg2

from tests.chaos.bench import Bench
from tests.chaos.crew import Crew, Member
from tests.chaos.disk import SmallDisk
from tests.chaos.ledger import Ledger, Timers
from tests.chaos.proxy import Proxy
from tests.chaos.second_home import SecondHome
from tests.chaos.server import Server
from tests.chaos.sql import Sql

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
    """A trial that somebody holds."""

    pid: int
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
    disk: SmallDisk | None
    crew: Crew
    files: Path
    """The folder of the study's checkpoints."""
    lease: float
    second: SecondHome
    ledger: Ledger = field(default_factory=Ledger)
    timers: Timers = field(default_factory=Timers)
    _progress: Progress = Progress()

    @property
    def sql(self) -> Sql:
        return self.server.sql(self.database)

    def held(self) -> dict[int, Held]:
        """From the process to the trial that it holds, as the database has it."""
        return {row[0]: Held(*row) for row in self.sql(_HELD)}

    def progress(self) -> Progress:
        """How far the study is; what was seen last, while the server restarts."""
        with suppress(psycopg2.Error):
            self._progress = Progress(*self.sql(_PROGRESS)[0])
        return self._progress

    def victims(self, slot: int) -> Iterator[tuple[Member, Held]]:
        """Workers that hold a trial, the one in `slot` first."""
        held = self.held()
        return ((member, held[member.pid]) for member in self.crew.from_slot(slot) if member.pid in held)

    def frozen_victim(self, slot: int, *, epochs: float = 0.0) -> tuple[Member, Held] | None:
        """A worker that holds a trial which may lose one more holder, stopped, so that nothing changes any more.

        Of `epochs` and more, where that is asked for. Whoever is passed over goes on.
        """
        for member, _ in self.victims(slot):
            self.crew.freeze(member)
            time.sleep(0.02)  # a COMMIT that was under way arrives
            held = self.held().get(member.pid)
            if held is not None and held.deaths < DEATHS_ALLOWED and self._checkpoints(held.trial) >= epochs:
                return member, held
            if held is not None and held.deaths >= DEATHS_ALLOWED:
                self.ledger.notes["a victim whose trial had lost two holders without an epoch between was spared"] += 1
            self.crew.thaw(member)
        return None

    def newest(self, trial: int) -> list[Path]:
        """Versions of the trial's `latest` checkpoint, the newest first."""
        return sorted((self.files / str(trial)).glob("latest-*"), key=lambda path: path.stat().st_mtime_ns)[::-1]

    def _checkpoints(self, trial: int) -> int:
        return len(self.newest(trial))
