"""Patience: what is asked of a database that is away for a while is asked again, until it was away too long."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from storage.errors import DatabaseUnavailableError

log = logging.getLogger(__name__)

GRACE = 600.0
"""Seconds for which the database may be away before a worker leaves, unless told otherwise."""

SLICE = 0.2
"""Seconds between two looks at whether to stop waiting."""

R = TypeVar("R")


def unwilling() -> bool:
    """Nobody asks to stop."""
    return False


@dataclass(frozen=True)
class Patience:
    """Asks again for up to `grace` seconds after the first fault; not once `should_stop()` is True."""

    grace: float = GRACE
    should_stop: Callable[[], bool] = unwilling

    def run(self, action: Callable[[], R]) -> R:
        """What `action` gives, however often it must be begun anew. Raises its last DatabaseUnavailableError."""
        since: float | None = None
        pause = 0.1
        while True:
            try:
                result = action()
            except DatabaseUnavailableError as error:
                if since is None:
                    since = time.monotonic()
                    log.warning("%s; trying again for %.0f s", error, self.grace)
                if time.monotonic() - since >= self.grace or not self.sleep(pause * random.uniform(0.5, 1)):  # noqa: S311
                    raise
                pause = min(2 * pause, 5.0)
            else:
                if since is not None:
                    log.warning("the database is back after %.0f s", time.monotonic() - since)
                return result

    def sleep(self, seconds: float) -> bool:
        """Wait; False when `should_stop()` became True meanwhile."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if self.should_stop():
                return False
            time.sleep(min(SLICE, left))
        return not self.should_stop()
