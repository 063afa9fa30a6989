"""Ledger: the faults that hit a target, and timers for those that end later."""

from __future__ import annotations

import heapq
import itertools
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Struck:
    """A fault that hit a target."""

    name: str
    at: float
    """Seconds of the monotonic clock."""
    pid: int | None = None
    """The process that it hit; None if it hit all, or their environment."""
    loses: bool = False
    """Whether steps since the last checkpoint may have to be repeated."""
    lasts: float = 0.0
    """Seconds."""
    trial: int | None = None
    """The trial that it hit, if that is known; else the one that `pid` claimed last."""


@dataclass
class Ledger:
    """The faults that have hit a target so far."""

    struck: list[Struck] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)

    def add(self, name: str, pid: int | None = None, *, loses: bool = False, trial: int | None = None) -> None:
        """Add a fault that hits now."""
        self.struck.append(Struck(name, time.monotonic(), pid, loses, trial=trial))

    def add_lasting(self, name: str, since: float, seconds: float, *, loses: bool) -> None:
        """Add a fault that hits all, began at `since` and lasts until `seconds` from now."""
        self.struck.append(Struck(name, since, None, loses, time.monotonic() + seconds - since))


@dataclass
class Timers:
    """Actions that are due later."""

    _heap: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _order: itertools.count[int] = field(default_factory=itertools.count)

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (time.monotonic() + seconds, next(self._order), action))

    def run_due(self) -> None:
        """Run the actions that are due; an action may add others."""
        while self._heap and self._heap[0][0] <= time.monotonic():
            heapq.heappop(self._heap)[2]()

    @property
    def waiting(self) -> int:
        return len(self._heap)
