"""A worker in the test of the lease protocol: every lease that it ever had, and its open transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from sqlalchemy import Connection

from storage import Database, Lease, LeaseLostError, LeaseSession, Worker
from storage.lease_session import Ending
from tests.storage.lease_model import Verdict

Write = Callable[[Database, Lease, Connection], None]


@dataclass
class Process:
    """A worker, and its predecessors that died: their leases may still be used for writes."""

    db: Database
    study: optuna.Study
    pids: Iterator[int]
    worker: Worker = field(init=False)
    leases: list[tuple[int, Lease]] = field(default_factory=list)
    """Every lease that was granted to it, with the trial's number."""
    writes_for: int | None = None
    """The trial of its open transaction."""
    _transaction: AbstractContextManager[Connection] | None = None
    _committed: Callable[[], None] | None = None

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        self.worker = Worker(pid=next(self.pids))

    def begin(self, number: int, lease: Lease, write: Write, committed: Callable[[], None]) -> None:
        self._transaction = self.db.storage.transaction(lease.fence)
        write(self.db, lease, self._transaction.__enter__())
        self.writes_for, self._committed = number, committed

    def commit(self) -> None:
        if self._transaction is not None and self._committed is not None:
            self._transaction.__exit__(None, None, None)
            self._committed()
        self._transaction = self._committed = self.writes_for = None

    def abort(self) -> None:
        if self._transaction is not None:
            undone = KeyboardInterrupt()
            self._transaction.__exit__(type(undone), undone, None)
        self._transaction = self._committed = self.writes_for = None

    def attempt(self, lease: Lease, write: Write, ending: Ending | None) -> Verdict:
        """Do a write as the session's thread does, without the thread."""
        session = LeaseSession(self.db.storage, lease)
        entry = session.submit(lambda connection: write(self.db, lease, connection), ending=ending)
        try:
            session._write(entry)
        except LeaseLostError:
            return Verdict.LOST
        except UpdateFinishedTrialError:
            return Verdict.FINISHED
        return Verdict.WRITTEN
