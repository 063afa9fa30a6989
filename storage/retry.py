"""Retries: the pauses between attempts, and a policy that repeats an action while the database is unavailable."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from storage.errors import DatabaseUnavailableError

log = logging.getLogger(__name__)

GRACE = 600.0
"""Seconds for which the database may be unavailable before a worker ends, unless an option says otherwise."""

LEAVING = 4.0
"""Seconds that a worker which was asked to stop waits for the database, at most."""

FIRST_PAUSE = 0.1
"""Seconds before the second attempt, at most."""

LONGEST_PAUSE = 2.0
"""Seconds between two attempts, at most."""

_POLL = 0.2  # seconds between two calls of `should_stop`

R = TypeVar("R")


def pauses(first: float, most: float, jitter: float) -> Iterator[float]:
    """Yield seconds to wait before each further attempt: `first`, then twice as long each time, up to `most`.

    The share `jitter` (0 to 1) of each pause is random, so that processes that failed together do not retry together.
    """
    pause = first
    while True:
        pause = min(pause, most)
        yield pause * random.uniform(1 - jitter, 1)  # noqa: S311 - no secret depends on it
        pause *= 2


def never_stop() -> bool:
    """Return False: the default `should_stop`."""
    return False


@dataclass(frozen=True)
class RetryPolicy:
    """Repeats an action for up to `grace` seconds after its first fault, until `should_stop()` is True."""

    grace: float = GRACE
    should_stop: Callable[[], bool] = never_stop

    def run(self, action: Callable[[], R]) -> R:
        """Return the result of `action`, repeated while it fails. Raises its last DatabaseUnavailableError."""
        # In a thread of its own: no signal is handled within libpq, and a server that hangs can block a statement for
        # minutes. LEAVING seconds after a stop was requested the thread is abandoned.
        attempt = _Background(lambda: self._repeat(action))
        stop_requested: float | None = None
        while not attempt.done.wait(_POLL):
            if stop_requested is None and self.should_stop():
                stop_requested = time.monotonic()
            if stop_requested is not None and time.monotonic() - stop_requested > LEAVING:
                raise DatabaseUnavailableError("what was under way did not end before this worker had to leave")
        return attempt.outcome()

    def sleep(self, seconds: float) -> bool:
        """Wait; return False when `should_stop()` became True meanwhile."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if self.should_stop():
                return False
            time.sleep(min(_POLL, left))
        return not self.should_stop()

    def _repeat(self, action: Callable[[], R]) -> R:
        since: float | None = None
        waits = pauses(FIRST_PAUSE, LONGEST_PAUSE, jitter=0.5)
        while True:
            try:
                result = action()
            except DatabaseUnavailableError as error:
                if not error.passes or (time.monotonic() - since if since is not None else 0.0) >= self.grace:
                    raise
                if since is None:
                    since = time.monotonic()
                    log.warning("%s; trying again for %.0f s", error, self.grace)
                if not self.sleep(next(waits)):
                    raise
            else:
                if since is not None:
                    log.warning("the database is back after %.0f s", time.monotonic() - since)
                return result


class _Background(Generic[R]):
    """An action in a daemon thread, which can be abandoned."""

    def __init__(self, action: Callable[[], R]) -> None:
        self.done = threading.Event()
        self._action = action
        self._result: R
        self._error: BaseException | None = None
        threading.Thread(target=self._run, name="database", daemon=True).start()

    def outcome(self) -> R:
        """Return the result of the action, or raise its error."""
        if self._error is not None:
            raise self._error
        return self._result

    def _run(self) -> None:
        try:
            self._result = self._action()
        except BaseException as error:  # noqa: BLE001 - raised again by `outcome`
            self._error = error
        finally:
            self.done.set()
