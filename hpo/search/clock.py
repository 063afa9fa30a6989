"""Times of trials as moments, and the time that is left of a study's budget."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime

import optuna

from storage import Database, read_limits


def moment(time_of_trial: datetime) -> datetime:
    """A time that optuna gives, naive and local to this reader, as an aware moment.

    Naive times are not to be subtracted: where clocks are put back, one hour is missing from the difference. Within
    the hour that comes twice optuna does not say which it means, and the first is taken.
    """
    return time_of_trial.astimezone(UTC)


@dataclass
class Clock:
    """The time that is left of the study's budget: the database's clock, then counted on this host's steady one."""

    db: Database
    study: optuna.Study
    _end: float | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.read()

    def read(self) -> None:
        """Read the deadline again: another run may have set or lifted it."""
        deadline = read_limits(self.study).deadline
        self._end = None if deadline is None else time.monotonic() + (deadline - self.db.now()).total_seconds()

    def is_up(self) -> bool:
        """True once the study's deadline has passed."""
        return self._end is not None and time.monotonic() >= self._end
