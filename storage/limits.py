"""Limits: the budget of a study, which may change from run to run and holds for all its workers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import optuna

from storage.errors import StudyError
from storage.workers import Worker

LIMITS = "hpo:limits"
"""The user attribute of a study that holds them."""


@dataclass(frozen=True)
class Limits:
    """How many trials may be taken up in all, and until when (aware, by the database's clock). None is no limit."""

    trials: int | None = None
    deadline: datetime | None = None
    run: Worker | None = None
    """The `hpo run` that set the deadline; None where `hpo init` did, or an earlier version, which did not note it."""

    def __post_init__(self) -> None:
        if self.trials is not None and self.trials < 0:
            raise StudyError(f"trials is {self.trials}, but must be 0 or more")
        if self.deadline is not None and self.deadline.tzinfo is None:
            raise StudyError(f"deadline {self.deadline} has no time zone, but must have one")

    def allow(self, asked: int, now: datetime) -> bool:
        """Whether one more trial may be taken up after `asked` ones, at the time `now`."""
        within_cap = self.trials is None or asked < self.trials
        return within_cap and (self.deadline is None or now < self.deadline)


def read_limits(study: optuna.Study) -> Limits:
    """The limits of `study`; none were written, none hold."""
    return limits_from(study.user_attrs.get(LIMITS))


def write_limits(study: optuna.Study, limits: Limits) -> None:
    """Write the limits into `study`, where every worker reads them before its next trial."""
    deadline = limits.deadline.isoformat() if limits.deadline else None
    run = vars(limits.run) if limits.run else None
    study.set_user_attr(LIMITS, {"trials": limits.trials, "deadline": deadline, "run": run})


def limits_from(stored: Mapping[str, Any] | None) -> Limits:
    """The limits that are stored so; without any, none hold."""
    stored = stored or {}
    deadline = stored.get("deadline")
    run = stored.get("run")
    return Limits(
        stored.get("trials"), datetime.fromisoformat(deadline) if deadline else None, Worker(**run) if run else None
    )
