"""Patience: what is asked of a database that is away for a while is asked again, until it was away too long."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from storage.errors import DatabaseUnavailableError

log = logging.getLogger(__name__)

GRACE = 600.0
"""Seconds for which the database may be away before a worker leaves, unless told otherwise."""

LEAVING = 4.0
"""Seconds that a worker which was asked to stop waits for the database, at most."""

SLICE = 0.2
"""Seconds between two looks at whether to stop waiting."""

LONGEST = 2.0
"""Seconds between two attempts, at most."""

R = TypeVar("R")


def never_stop() -> bool:
    """Nobody asks to stop."""
    return False


@dataclass(frozen=True)
class RetryPolicy:
    """Asks again for up to `grace` seconds after the first fault; not once `should_stop()` is True."""

    grace: float = GRACE
    should_stop: Callable[[], bool] = never_stop

    def run(self, action: Callable[[], R]) -> R:
        """What `action` gives, however often it must be begun anew. Raises its last DatabaseUnavailableError.

        In a thread of its own: within libpq no signal is handled, and a server that is silent rather than away can hold
        a statement for minutes. LEAVING seconds after a stop is asked for it is left to itself.
        """
        attempt = _Background(lambda: self._persist(action))
        asked: float | None = None
        while not attempt.done.wait(SLICE):
            if asked is None and self.should_stop():
                asked = time.monotonic()
            if asked is not None and time.monotonic() - asked > LEAVING:
                raise DatabaseUnavailableError("what was under way did not end before this worker had to leave")
        return attempt.outcome()

    def sleep(self, seconds: float) -> bool:
        """Wait; False when `should_stop()` became True meanwhile."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if self.should_stop():
                return False
            time.sleep(min(SLICE, left))
        return not self.should_stop()

    def _persist(self, action: Callable[[], R]) -> R:
        since: float | None = None
        pause = 0.1
        while True:
            try:
                result = action()
            except DatabaseUnavailableError as error:
                if not error.passes or (time.monotonic() - since if since is not None else 0.0) >= self.grace:
                    raise
                if since is None:
                    since = time.monotonic()
                    log.warning("%s; trying again for %.0f s", error, self.grace)
                if not self.sleep(pause * random.uniform(0.5, 1)):  # noqa: S311 - only to part those who wait
                    raise
                pause = min(2 * pause, LONGEST)
            else:
                if since is not None:
                    log.warning("the database is back after %.0f s", time.monotonic() - since)
                return result


class _Background(Generic[R]):
    """An action in a thread that nobody has to wait for."""

    def __init__(self, action: Callable[[], R]) -> None:
        self.done = threading.Event()
        self._action = action
        self._result: R
        self._error: BaseException | None = None
        threading.Thread(target=self._run, name="database", daemon=True).start()

    def outcome(self) -> R:
        """What the action gave, or raised."""
        if self._error is not None:
            raise self._error
        return self._result

    def _run(self) -> None:
        try:
            self._result = self._action()
        except BaseException as error:  # noqa: BLE001 - raised again where it is awaited
            self._error = error
        finally:
            self.done.set()
