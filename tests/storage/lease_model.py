"""A model of the lease protocol in plain Python: the expected state of the database after any interleaving."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from storage import Control, NoTrial
from storage.leases import DEATHS


@dataclass
class Row:
    """A trial and its lease."""

    number: int
    state: str = "WAITING"
    lease: str | None = None
    """held, free, ended; None before it is first claimed."""
    worker: str | None = None
    token: int | None = None
    """None while only PostgreSQL knows it: the trial was just claimed."""
    deaths: int = 0
    expired: int | None = None
    """Position of its expiry among all expiries; None while the lease is valid."""
    x: float | None = None
    """The value that was enqueued or suggested."""
    params: dict[str, float] = field(default_factory=dict)
    reports: dict[int, float] = field(default_factory=dict)
    value: float | None = None
    checkpoint: dict[str, Any] | None = None

    @property
    def finished(self) -> bool:
        return self.state not in ("RUNNING", "WAITING")

    def shown(self) -> tuple[Any, ...]:
        """Return the expected row, in the order of the columns of the query."""
        return (
            self.number, self.state, self.lease, self.worker, self.token, self.deaths, self.expired is not None,
            self.params, self.reports, self.value, self.checkpoint,
        )  # fmt: skip


class Verdict(Enum):
    """The result of a write under a token."""

    WRITTEN = "written"
    LOST = "the trial has no holder, or another one"
    FINISHED = "another program finished the trial"
    KNOWN = "the same token wrote this end before"


@dataclass
class Model:
    """A study."""

    cap: int | None = None
    control: Control = Control.RUN
    rows: list[Row] = field(default_factory=list)
    events: int = 0

    @property
    def claimed_trials(self) -> int:
        return sum(row.state != "WAITING" for row in self.rows)

    def expired(self, under_way: set[int]) -> list[Row]:
        """Expired trials in order of their expiry, without those whose holder has an open transaction."""
        held = [row for row in self.rows if row.lease == "held" and row.expired is not None]
        return sorted((row for row in held if row.number not in under_way), key=lambda row: row.expired or 0)

    def claim(self, worker: str, under_way: set[int]) -> Row | NoTrial:
        if self.control is not Control.RUN:
            return NoTrial.PAUSED if self.control is Control.PAUSE else NoTrial.STOPPED
        for row in self.rows:
            if row.lease == "held" and row.worker == worker and not self._close_if_finished(row):
                return self._grant(row, worker, row.deaths)
        for row in self.expired(under_way):
            if not self._close_if_finished(row) and not self._fail_poison(row):
                return self._grant(row, worker, row.deaths + 1)
        if self.cap is None or self.claimed_trials < self.cap:
            row = self._next()
            return self._grant(row, worker, row.deaths)
        return NoTrial.OTHERS if any(row.lease == "held" for row in self.rows) else NoTrial.SPENT

    def reap(self, under_way: set[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Reap; return the numbers of requeued and of failed trials."""
        requeued, failed = [], []
        for row in self.expired(under_way):
            if self._close_if_finished(row):
                continue
            if self._fail_poison(row):
                failed.append(row.number)
            else:
                row.state, row.deaths = "WAITING", row.deaths + 1
                self._close_for_another(row, "free")
                requeued.append(row.number)
        return tuple(sorted(requeued)), tuple(sorted(failed))

    def judge(self, token: int, row: Row, ending: str | None = None) -> Verdict:
        """Return the result of a write for `row` under `token`; with `ending` it also closes the lease."""
        if row.token != token or row.lease != "held":
            known = row.token == token and ending is not None and row.lease == ending
            return Verdict.KNOWN if known else Verdict.LOST
        return Verdict.FINISHED if row.finished else Verdict.WRITTEN

    def expire(self, row: Row) -> None:
        if row.lease == "held":
            self.events += 1
            row.expired = self.events

    def _next(self) -> Row:
        waiting = [row for row in self.rows if row.state == "WAITING"]
        if not waiting:
            self.rows.append(Row(len(self.rows)))
            return self.rows[-1]
        return min(waiting, key=lambda row: (row.lease is None, row.number))

    def _grant(self, row: Row, worker: str, deaths: int) -> Row:
        row.state, row.lease, row.worker, row.token = "RUNNING", "held", worker, None
        row.deaths, row.expired = deaths, None
        return row

    def _close_if_finished(self, row: Row) -> bool:
        if row.finished:
            self._close_for_another(row, "ended")
        return row.finished

    def _fail_poison(self, row: Row) -> bool:
        if row.deaths + 1 < DEATHS:
            return False
        row.state = "FAIL"
        self._close_for_another(row, "ended")
        return True

    def _close_for_another(self, row: Row, state: str) -> None:
        row.lease, row.token, row.expired = state, None, None
