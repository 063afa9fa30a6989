"""Stalls: moments in which the whole machine stood still, so that no process could renew a lease.

A busy host may suspend a virtual machine for seconds. A thread of the campaign, which needs hardly any time, notices
that by waking late. Such a stall is a fault like any other, but the schedule did not order it: it is not counted among
the injected ones.
"""

from __future__ import annotations

import threading
import time
from types import TracebackType

from tests.chaos.ledger import Struck

STALL = "machine stood still"
_TICK = 0.1  # seconds
_SHORTEST = 1.0
"""Seconds by which the thread has to be late; a third of the default lease of a campaign."""


class StallWatch:
    """Records stalls while its block runs. A context manager."""

    def __init__(self) -> None:
        self.stalls: list[Struck] = []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="stalls", daemon=True)

    def __enter__(self) -> StallWatch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()

    def notes(self) -> list[str]:
        """Return a line on the stalls; none if there were none."""
        if not self.stalls:
            return []
        longest = max(stall.lasts for stall in self.stalls)
        return [f"the machine stood still {len(self.stalls)} times, for {longest:.1f} s at most"]

    def _watch(self) -> None:
        before = time.monotonic()
        while not self._end.wait(_TICK):
            now = time.monotonic()
            self.note(before, now)
            before = now

    def note(self, before: float, now: float) -> None:
        """Record a stall if two ticks of the thread are too far apart."""
        if now - before - _TICK > _SHORTEST:
            self.stalls.append(Struck(STALL, before, loses=True, lasts=now - before))
