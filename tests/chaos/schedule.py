"""Schedule: kind, time, target and duration of each fault, all decided by the seed.

A fault is due when a given share of all epochs is reported, so that slow and fast machines meet the same faults at the
same positions. The seed does not decide between which two steps or statements a signal arrives: `statement_kills`
enumerates these moments.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """Kinds of fault; the value is the name in the table."""

    KILL = "SIGKILL"
    TERM = "SIGTERM"
    STOP = "SIGSTOP beyond the lease, then SIGCONT"
    LEAVE = "worker leaves for good, another joins later"
    JOIN = "one more worker joins for a while"
    CLOCK = "worker whose clock is an hour off"
    CORRUPT = "latest checkpoint corrupted, its worker killed"
    DISK = "disk full"
    FAST = "server restarted, fast"
    IMMEDIATE = "server restarted, immediate"
    BACKEND = "backend terminated"
    CUT = "all connections cut"
    BEFORE_COMMIT = "connection cut before COMMIT arrives"
    AFTER_COMMIT = "connection cut after COMMIT, before its answer"
    BEFORE_WRITE = "connection cut in mid-transaction"
    REFUSED = "connections refused for seconds"
    SILENT = "network silent for seconds, then cut"
    COPY = "study copied with its id, the copy searched"
    HANGUP = "SIGHUP"
    READ_ELSEWHERE = "embedded server's folder read from another container"
    HOME_COPIED = "embedded server's folder copied, the copy worked on"
    HOME_MOVED = "embedded server's folder moved under it, and back"
    KILL_TRIAL = "SIGKILL of an isolated trial's process alone"
    KILL_PARENT = "SIGKILL of an isolated worker alone"
    STOP_TRIAL = "SIGSTOP of an isolated trial's process alone, then SIGCONT"
    STOP_PARENT = "SIGSTOP of an isolated worker alone, then SIGCONT"
    STORE_REFUSED = "object store refuses connections"
    STORE_SILENT = "object store silent for seconds, then cut"
    STORE_CUT = "connection to the object store cut in an upload"


_SHARES = {
    Kind.KILL: 22, Kind.TERM: 12, Kind.STOP: 9, Kind.LEAVE: 4, Kind.JOIN: 3, Kind.CLOCK: 3, Kind.CORRUPT: 7,
    Kind.DISK: 3, Kind.FAST: 3, Kind.IMMEDIATE: 3, Kind.BACKEND: 7, Kind.CUT: 3, Kind.BEFORE_COMMIT: 7,
    Kind.AFTER_COMMIT: 7, Kind.BEFORE_WRITE: 4, Kind.REFUSED: 3, Kind.SILENT: 2, Kind.COPY: 1,
    Kind.HANGUP: 3, Kind.READ_ELSEWHERE: 1, Kind.HOME_COPIED: 1, Kind.HOME_MOVED: 1,
    Kind.KILL_TRIAL: 7, Kind.KILL_PARENT: 3, Kind.STOP_TRIAL: 3, Kind.STOP_PARENT: 2,
    Kind.STORE_REFUSED: 4, Kind.STORE_SILENT: 3, Kind.STORE_CUT: 6,
}  # fmt: skip
OF_ISOLATED = frozenset({Kind.KILL_TRIAL, Kind.KILL_PARENT, Kind.STOP_TRIAL, Kind.STOP_PARENT})
"""Kinds that need workers which train each trial in a process of its own."""
OF_FOLDERS = frozenset({Kind.DISK})
"""Kinds that need checkpoints in a folder."""
OF_S3 = frozenset({Kind.STORE_REFUSED, Kind.STORE_SILENT, Kind.STORE_CUT})
"""Kinds that need checkpoints in S3."""
NEEDS_TRAINING = frozenset({Kind.BEFORE_WRITE, Kind.STORE_CUT})
"""Kinds that wait for a statement or an upload of a worker that trains."""
TAKES_LONG = frozenset({Kind.COPY, Kind.READ_ELSEWHERE, Kind.HOME_COPIED, Kind.HOME_MOVED})
"""Kinds whose injection takes seconds and hits no training worker; on a busy machine the study would end meanwhile."""
_LAST = 0.8
"""Share of all epochs by which the last fault is due."""


@dataclass(frozen=True)
class Fault:
    """One fault of the schedule."""

    number: int
    due: float
    """Share of all epochs that must be reported before it, in [0, 1]."""
    kind: Kind
    slot: int
    """The worker that it is meant for; if that has no trial, the next one that has one."""
    strength: float
    """In [0, 1): decides its duration, or which of several forms it has."""

    def __str__(self) -> str:
        return f"{self.number:4d}  at {self.due:6.1%}  slot {self.slot}  strength {self.strength:.2f}  {self.kind}"


@dataclass(frozen=True)
class Schedule:
    """`count` faults, and as many again in reserve for those that find no target."""

    seed: int
    count: int
    workers: int
    without: frozenset[Kind] = frozenset()
    """Kinds that this machine does not allow, or that have no target in this form of the campaign."""

    def __iter__(self) -> Iterator[Fault]:
        """Yield each kind at least once if `count` allows it, then kinds by their shares; the reserve is due last."""
        draw = random.Random(self.seed)
        for number, kind in enumerate(self._kinds(draw), start=1):
            due = min(1.0, (number - draw.random()) / self.count) * _LAST
            yield Fault(number, due, kind, draw.randrange(self.workers), draw.random())

    def _kinds(self, draw: random.Random) -> list[Kind]:
        kinds = [kind for kind in Kind if kind not in self.without]
        shares = [_SHARES[kind] for kind in kinds]
        deck = [*draw.sample(kinds, len(kinds)), *draw.choices(kinds, shares, k=self.count)][: self.count]
        draw.shuffle(deck)
        return [*deck, *draw.choices(kinds, shares, k=self.count)]
