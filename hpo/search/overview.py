"""How a study stands, as one frozen value: what `hpo status`, its --json and the live view of `hpo run` show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from search_spaces import SearchSpace
from storage import Database, Limits, StudySpec, read_limits, read_spec

_STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}


@dataclass(frozen=True)
class TrialLine:
    """One trial as a person reads it."""

    number: int
    state: str
    value: float | None
    """Best reported value so far; None before the first report."""
    epoch: int
    epochs: int
    curve: Sequence[float]
    params: Mapping[str, Any]
    seconds: float
    reason: str | None
    worker: str | None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {**vars(self), "curve": list(self.curve), "params": dict(self.params)}


@dataclass(frozen=True)
class Overview:
    """A study at one moment."""

    study: str
    metric: str
    space: str
    limits: Limits
    now: datetime
    lines: Sequence[TrialLine]

    @property
    def counts(self) -> dict[str, int]:
        """Trials by state; asked = all that were ever taken up, finished = complete + pruned + failed."""
        states = {name: sum(line.state == name for line in self.lines) for name in _STATES.values()}
        finished = states["complete"] + states["pruned"] + states["failed"]
        return {"asked": finished + states["running"], "finished": finished} | states

    @property
    def best(self) -> TrialLine | None:
        """The complete trial with the highest value; of equals the first."""
        complete = [line for line in self.lines if line.state == "complete" and line.value is not None]
        return max(complete, key=lambda line: (line.value or 0.0, -line.number), default=None)

    def to_dict(self) -> dict[str, Any]:
        """The document of `hpo status --json`; its keys are stable."""
        best = self.best
        return {
            "study": self.study,
            "trials": self.counts,
            "best": best and {"trial": best.number, "value": best.value, "params": dict(best.params)},
            "metric": self.metric,
            "space": self.space,
            "limit": {
                "trials": self.limits.trials,
                "deadline": self.limits.deadline and self.limits.deadline.isoformat(),
            },
            "running": [line.to_dict() for line in self.lines if line.state == "running"],
            "failures": [
                {"trial": line.number, "reason": line.reason} for line in self.lines if line.state == "failed"
            ],
        }


def survey(db: Database, study: optuna.Study) -> Overview:
    """Read a study: its trials in one query of optuna's, its limits and its clock."""
    spec = read_spec(study)
    space = SearchSpace.from_dict(spec.space)
    now = db.now()
    trials = study.get_trials(deepcopy=False)
    return Overview(
        study=study.study_name,
        metric=spec.metric,
        space=space.name,
        limits=read_limits(study),
        now=now,
        lines=[_line(trial, spec, space, now) for trial in trials],
    )


def _line(trial: FrozenTrial, spec: StudySpec, space: SearchSpace, now: datetime) -> TrialLine:
    attrs = trial.user_attrs
    curve = [trial.intermediate_values[step] for step in sorted(trial.intermediate_values)]
    config = attrs.get("config", {})
    value = trial.value if trial.state == TrialState.COMPLETE else max(curve, default=None)
    return TrialLine(
        number=trial.number,
        state=_STATES[trial.state],
        value=value,
        epoch=max(trial.intermediate_values, default=0),
        epochs=int(config.get("epochs", space.fixed.get("epochs", 0))),
        curve=curve,
        params=space.searched(trial.params),
        seconds=_seconds(trial, now),
        reason=attrs.get("reason"),
        worker=attrs.get("worker"),
    )


def _seconds(trial: FrozenTrial, now: datetime) -> float:
    """Seconds from the trial's start to its end, or to now while it runs; optuna stores naive UTC."""
    if trial.datetime_start is None:
        return 0.0
    start = trial.datetime_start.replace(tzinfo=trial.datetime_start.tzinfo or UTC)
    end = trial.datetime_complete
    return max(0.0, ((end.replace(tzinfo=end.tzinfo or UTC) if end else now) - start).total_seconds())
