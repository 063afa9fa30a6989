"""LeaseKeeper: beside the training of one trial, renews its lease and writes what it reports, in order, each once.

Training makes no database call of its own, so a restart, a cut or an outage does not stop it: what it has to say waits
here, and is written when the database is back. When the lease turns out lost, nothing more is written.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal

from sqlalchemy import Connection

from storage import leases
from storage.errors import DatabaseUnavailableError, LeaseLostError
from storage.fenced_storage import FencedStorage
from storage.leases import Lease
from storage.retry import pauses
from storage.studies import Control

log = logging.getLogger(__name__)

PAUSES = (0.2, 5.0)
"""Seconds between two attempts while the database fails: the first pause and the longest, at most."""

SILENCE = 10.0
"""Seconds after which a statement that is not answered counts as a fault of the database."""

Write = Callable[[Connection], Control | None]
"""A write may return what the study's workers are told, where it reads that."""

Ending = Literal["free", "ended"]


@dataclass
class PendingWrite:
    """Something to write, in a transaction of its own behind the fence, and a question to ask once it is written."""

    write: Write
    question: Callable[[], Any] | None = None
    ending: Ending | None = None
    """How the lease is closed in the same transaction: the last entry."""
    written: bool = False
    answer: Any = None
    failure: Exception | None = None
    """What went wrong with the question, other than the database."""
    done: threading.Event = field(default_factory=threading.Event)

    def wait(self, seconds: float) -> bool:
        """Wait until it is written and the question answered, or never will be; False when that takes longer."""
        return self.done.wait(seconds)


class LeaseSession:
    """Keeps `lease` from entering until leaving. A context manager; its methods never wait for the database."""

    def __init__(self, storage: FencedStorage, lease: Lease) -> None:
        self.lease = lease
        self.position = lease.position
        """Epochs done, with the fraction of the one under way; the trainer sets it, renewals write it down."""
        self.note: str | None = None
        """What the trial waits for, shown to people; the trainer sets it."""
        self.control = Control.RUN
        """What the study's workers were told at the last renewal."""
        self.lost = False
        """The trial is another worker's now."""
        self.error: Exception | None = None
        """What made keeping impossible and is no fault that passes: the study was deleted."""
        self._storage = storage
        self._entries: deque[PendingWrite] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._failing_since: float | None = None
        self._attempt_since: float | None = None
        self._pauses: Iterator[float] = iter(())
        self._next_renewal = time.monotonic() + lease.interval
        self._thread = threading.Thread(target=self._run, name=f"lease-{lease.trial_id}", daemon=True)

    @property
    def failing(self) -> float:
        """Seconds since the database began to fail; 0 while it answers."""
        since, now = self._failing_since, time.monotonic()
        if since is not None:
            return now - since
        attempt = self._attempt_since  # a server may be silent rather than away
        return now - attempt if attempt is not None and now - attempt > SILENCE else 0.0

    @property
    def over(self) -> bool:
        """Whether nothing more can be written for the trial."""
        return self.lost or self.error is not None

    def submit(
        self, write: Write, question: Callable[[], Any] | None = None, ending: Ending | None = None
    ) -> PendingWrite:
        """Have something written after all that was submitted before."""
        entry = PendingWrite(write, question, ending)
        with self._changed:
            self._entries.append(entry)
            self._changed.notify()
        if self.over or self._closed:
            entry.done.set()
        return entry

    def __enter__(self) -> LeaseSession:
        """Put up the fence, and start to renew."""
        self._storage.fences[self.lease.trial_id] = self.lease.fence
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the renewals. What is still unwritten stays so; the fence stays up."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(timeout=1.0)

    def _run(self) -> None:
        while not self._closed and not self.over:
            entry = self._next()
            self._attempt_since = time.monotonic()
            try:
                if entry is not None:
                    self._write(entry)
                elif not self._closed:
                    self._renew()
            except LeaseLostError:
                self.lost = True
            except DatabaseUnavailableError as error:
                self._suffer(error)
            except Exception as error:  # noqa: BLE001 - raised by the trainer: a thread has nobody to raise it to
                self.error = error
            else:
                self._recover()
            finally:
                self._attempt_since = None
        with self._changed:
            left = list(self._entries)
        for entry in left:
            entry.done.set()

    def _next(self) -> PendingWrite | None:
        """The entry to write now; None when it is time to renew, or to end."""
        with self._changed:
            if self._failing_since is not None:
                self._changed.wait_for(lambda: self._closed, next(self._pauses))
            else:
                due = self._next_renewal - time.monotonic()
                self._changed.wait_for(lambda: self._closed or bool(self._entries), max(0.0, due))
            # A renewal that is due goes first: what is queued may take long.
            if self._closed or time.monotonic() >= self._next_renewal:
                return None
            return self._entries[0] if self._entries else None

    def _write(self, entry: PendingWrite) -> None:
        try:
            self._storage.atomically(lambda connection: self._in_full(entry, connection), self.lease.fence)
        except LeaseLostError:
            if entry.ending is None or not self._was_closed(entry.ending):
                raise
        entry.written = True
        if entry.question is not None and len(self._entries) == 1:  # a later report asks anew
            _ask(entry, entry.question)
        with self._changed:
            self._entries.popleft()
            self._closed = self._closed or entry.ending is not None
        entry.done.set()

    def _in_full(self, entry: PendingWrite, connection: Connection) -> None:
        control = entry.write(connection)
        if control is not None:
            self.control = control
        if entry.ending is not None:
            leases.close(connection, self.lease, entry.ending, self.position)

    def _was_closed(self, ending: Ending) -> bool:
        """Whether an earlier attempt went through whose COMMIT was not answered."""
        return self._storage.atomically(lambda connection: leases.is_closed(connection, self.lease, ending))

    def _renew(self) -> None:
        self.control = self._storage.atomically(
            lambda connection: leases.renew(connection, self.lease, self.position, self.note)
        )

    def _suffer(self, error: DatabaseUnavailableError) -> None:
        if self._failing_since is None:
            self._failing_since = time.monotonic()
            self._pauses = pauses(PAUSES[0], min(PAUSES[1], self.lease.interval), jitter=0.5)
            log.warning("%s; training goes on, and its reports wait", error)

    def _recover(self) -> None:
        if self._failing_since is not None:
            log.warning("the database is back after %.0f s", self.failing)
        self._failing_since = None
        self._next_renewal = time.monotonic() + self.lease.interval


def _ask(entry: PendingWrite, question: Callable[[], Any]) -> None:
    """Ask; where the database fails just now there is no answer, and what it was asked for can do without."""
    try:
        entry.answer = question()
    except DatabaseUnavailableError:
        pass
    except Exception as error:  # noqa: BLE001 - the trainer raises it: a thread has nobody to raise it to
        entry.failure = error
