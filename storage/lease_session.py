"""LeaseSession: a thread beside the training of one trial that renews its lease and writes its reports.

Training makes no database call of its own, so a restart or an outage of the database does not stop it: its reports wait
in a queue and are written in order, each once, when the database is back. Once the lease is lost nothing is written.
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
"""Seconds after which a statement without an answer counts as a fault of the database."""

Write = Callable[[Connection], Control | None]
"""May return the control of the study, if the write reads it."""

Ending = Literal["free", "ended"]


@dataclass
class PendingWrite:
    """A write, in a transaction of its own behind the fence, and a question to ask once it is committed."""

    write: Write
    question: Callable[[], Any] | None = None
    ending: Ending | None = None
    """State in which the same transaction closes the lease; it is the last write then."""
    written: bool = False
    answer: Any = None
    failure: Exception | None = None
    """Error of the question, other than a fault of the database."""
    done: threading.Event = field(default_factory=threading.Event)

    def wait(self, seconds: float) -> bool:
        """Wait until it is written and the question answered, or until neither can happen; False after `seconds`."""
        return self.done.wait(seconds)


class LeaseSession:
    """Renews `lease` while its block runs. A context manager; its methods never wait for the database."""

    def __init__(self, storage: FencedStorage, lease: Lease) -> None:
        self.lease = lease
        self.position = lease.position
        """Epochs done, with the fraction of the current one; the trainer sets it, renewals write it."""
        self.note: str | None = None
        """The reason why the trial waits, as users see it; the trainer sets it."""
        self.control = Control.RUN
        """Control of the study at the last renewal."""
        self.lost = False
        """Whether another worker holds the trial now."""
        self.error: Exception | None = None
        """The error that ended the session and does not pass by itself: the study was deleted."""
        self._storage = storage
        self._queue: deque[PendingWrite] = deque()
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
        attempt = self._attempt_since  # a server may hang rather than refuse
        return now - attempt if attempt is not None and now - attempt > SILENCE else 0.0

    @property
    def over(self) -> bool:
        """Whether nothing more can be written for the trial."""
        return self.lost or self.error is not None

    def submit(
        self, write: Write, question: Callable[[], Any] | None = None, ending: Ending | None = None
    ) -> PendingWrite:
        """Queue a write; it is done after all that were submitted before."""
        pending = PendingWrite(write, question, ending)
        with self._changed:
            self._queue.append(pending)
            self._changed.notify()
        if self.over or self._closed:
            pending.done.set()
        return pending

    def __enter__(self) -> LeaseSession:
        """Set the fence of the trial, and start the renewals."""
        self._storage.fences[self.lease.trial_id] = self.lease.fence
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the renewals. Queued writes are dropped; the fence stays set."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(timeout=1.0)

    def _run(self) -> None:
        while not self._closed and not self.over:
            pending = self._wait_for_next()
            self._attempt_since = time.monotonic()
            try:
                if pending is not None:
                    self._write(pending)
                elif not self._closed:
                    self._renew()
            except LeaseLostError:
                self.lost = True
            except DatabaseUnavailableError as error:
                self._on_failure(error)
            except Exception as error:  # noqa: BLE001 - the trainer raises it: an error raised in this thread would be lost
                self.error = error
            else:
                self._on_success()
            finally:
                self._attempt_since = None
        with self._changed:
            unwritten = list(self._queue)
        for pending in unwritten:
            pending.done.set()

    def _wait_for_next(self) -> PendingWrite | None:
        """Wait for and return the next write; None when it is time to renew, or to end."""
        with self._changed:
            if self._failing_since is not None:
                self._changed.wait_for(lambda: self._closed, next(self._pauses))
            else:
                due = self._next_renewal - time.monotonic()
                self._changed.wait_for(lambda: self._closed or bool(self._queue), max(0.0, due))
            # A renewal that is due goes first: the queued writes may take long.
            if self._closed or time.monotonic() >= self._next_renewal:
                return None
            return self._queue[0] if self._queue else None

    def _write(self, pending: PendingWrite) -> None:
        try:
            self._storage.atomically(lambda connection: self._write_and_close(pending, connection), self.lease.fence)
        except LeaseLostError:
            if pending.ending is None or not self._was_closed(pending.ending):
                raise
        pending.written = True
        if pending.question is not None and len(self._queue) == 1:  # with more reports queued, the last one asks
            _ask(pending, pending.question)
        with self._changed:
            self._queue.popleft()
            self._closed = self._closed or pending.ending is not None
        pending.done.set()

    def _write_and_close(self, pending: PendingWrite, connection: Connection) -> None:
        control = pending.write(connection)
        if control is not None:
            self.control = control
        if pending.ending is not None:
            leases.close(connection, self.lease, pending.ending, self.position)

    def _was_closed(self, ending: Ending) -> bool:
        """Return whether an earlier attempt was committed, but the answer to COMMIT was lost."""
        return self._storage.atomically(lambda connection: leases.is_closed(connection, self.lease, ending))

    def _renew(self) -> None:
        self.control = self._storage.atomically(
            lambda connection: leases.renew(connection, self.lease, self.position, self.note)
        )

    def _on_failure(self, error: DatabaseUnavailableError) -> None:
        if self._failing_since is None:
            self._failing_since = time.monotonic()
            self._pauses = pauses(PAUSES[0], min(PAUSES[1], self.lease.interval), jitter=0.5)
            log.warning("%s; training goes on, and its reports wait", error)

    def _on_success(self) -> None:
        if self._failing_since is not None:
            log.warning("the database is back after %.0f s", self.failing)
        self._failing_since = None
        self._next_renewal = time.monotonic() + self.lease.interval


def _ask(pending: PendingWrite, question: Callable[[], Any]) -> None:
    """Ask the question; while the database fails there is no answer, and the trainer continues without it."""
    try:
        pending.answer = question()
    except DatabaseUnavailableError:
        pass
    except Exception as error:  # noqa: BLE001 - the trainer raises it: an error raised in this thread would be lost
        pending.failure = error
