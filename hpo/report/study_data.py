"""How much of the difference between the best and the other trials each parameter explains.

What a report says of a study, read once: plain values, so that figures and sections need no database.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState, create_trial

from hpo.search.status import StudyReader, StudyStatus, TrialStatus, moment
from hpo.search.trial_record import TrialRecord, stored_command
from storage import Database, StudySpec, read_spec

FEWEST = 12
"""Finished trials below which shares would be noise."""

BEST_SHARE = 0.1

FEWEST_BEST = 4
"""Trials that count as the best: a tenth of all, and at least so many."""


@dataclass(frozen=True)
class Importance:
    """What was found, and from how many trials."""

    shares: Mapping[str, float]
    """Parameter -> share of the whole, the largest first."""
    best: int
    trials: int


def importances(trials: Sequence[FrozenTrial]) -> Importance | None:
    """PED-ANOVA (Watanabe et al. 2023) over the complete and the pruned trials: what sets the best of them apart.

    The method knows trials by their rank alone. Complete ones come first, by value; then the pruned, those that went
    further before the others, as TPE ranks them too: else a search that prunes well would have nothing to say.
    None for fewer than FEWEST trials, and where none has a parameter.
    """
    ranked = _ranked([trial for trial in trials if trial.params])
    if len(ranked) < FEWEST:
        return None
    best = max(FEWEST_BEST, round(BEST_SHARE * len(ranked)))
    study = optuna.create_study(direction="maximize")
    study.add_trials(
        create_trial(params=trial.params, distributions=trial.distributions, value=-float(rank))
        for rank, trial in enumerate(ranked)
    )
    evaluator = PedAnovaImportanceEvaluator(target_quantile=best / len(ranked))
    shares = get_param_importances(study, evaluator=evaluator)
    return Importance(dict(sorted(shares.items(), key=lambda item: -item[1])), best, len(ranked))


def _ranked(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The finished trials that reported a value, best first."""

    def order(trial: FrozenTrial) -> tuple[bool, int, float]:
        if trial.state == TrialState.COMPLETE:
            return True, 0, trial.value if trial.value is not None else -float("inf")
        return False, max(trial.intermediate_values), max(trial.intermediate_values.values())

    finished = [
        trial for trial in trials
        if trial.state == TrialState.COMPLETE or (trial.state == TrialState.PRUNED and trial.intermediate_values)
    ]  # fmt: skip
    return sorted(finished, key=order, reverse=True)


@dataclass(frozen=True)
class TrialData:
    """One trial."""

    number: int
    state: str
    """complete, pruned, failed, running or waiting."""
    value: float | None
    """Best reported value; None before the first report."""
    curve: Sequence[float] = ()
    """The metric after each epoch."""
    epochs: int = 0
    """Epochs of a full run."""
    params: Mapping[str, Any] = field(default_factory=dict)
    """What was searched, under the names of the fields."""
    seconds: float = 0.0
    """Of training, all takings together."""
    ended: float | None = None
    """Seconds from the study's first start to this trial's end; None where it has not ended, or no start is known."""
    record: TrialRecord = field(default_factory=TrialRecord)
    """What the trial recorded of itself."""

    @property
    def saved(self) -> int:
        """Epochs that its pruning saved."""
        return max(0, self.epochs - len(self.curve)) if self.state == "pruned" else 0


@dataclass(frozen=True)
class StudyData:
    """A study at one moment."""

    name: str
    spec: StudySpec
    trials: Sequence[TrialData]
    best: int | None
    """Number of the best complete trial."""
    limit: int | None
    """Trials that it may have."""
    importance: Importance | None = None
    """None where there are too few trials to say."""
    command: str = ""
    """What founded a study over a list of runs; empty for a search."""

    @property
    def counts(self) -> dict[str, int]:
        """Trials by state, without the states that none is in."""
        states = ("complete", "pruned", "failed", "running", "waiting")
        counted = {state: sum(trial.state == state for trial in self.trials) for state in states}
        return {state: count for state, count in counted.items() if count}

    @property
    def best_trial(self) -> TrialData | None:
        """The best complete trial; None before there is one."""
        return next((trial for trial in self.trials if trial.number == self.best), None)

    @property
    def searches(self) -> bool:
        """Whether trials differ in what was searched, rather than being runs from a list."""
        return any(set(trial.params) - {"run"} for trial in self.trials)


def read_study(db: Database, study: optuna.Study) -> StudyData:
    """The facts of `study` as it stands; StudyError where it is none of ours."""
    status = StudyReader(db, study)()
    frozen = study.get_trials(deepcopy=False)
    start = _first_start(frozen)
    lines = {line.number: line for line in status.trials}
    trials = [_trial(trial, lines[trial.number], start) for trial in frozen if trial.number in lines]
    facts = StudyData(
        study.study_name, read_spec(study), trials, _best(status), status.limits.trials,
        command=stored_command(study),
    )  # fmt: skip
    return replace(facts, importance=importances(frozen)) if facts.searches else facts


def _best(status: StudyStatus) -> int | None:
    return status.best.number if status.best else None


def _first_start(trials: Sequence[FrozenTrial]) -> datetime | None:
    """When the first trial began; None where that is not known.

    Earlier versions recorded starts in local time as if it were UTC: a trial that ended before it began shows it.
    """
    times = [
        (moment(trial.datetime_start), moment(trial.datetime_complete) if trial.datetime_complete else None)
        for trial in trials
        if trial.datetime_start
    ]
    if any(end is not None and end < start for start, end in times):
        return None
    return min((start for start, _ in times), default=None)


def _trial(trial: FrozenTrial, line: TrialStatus, start: datetime | None) -> TrialData:
    end = trial.datetime_complete
    return TrialData(
        number=trial.number, state=line.state, value=line.value, curve=tuple(line.curve), epochs=line.epochs,
        params=line.params, seconds=line.seconds, record=TrialRecord.of(trial),
        ended=(moment(end) - start).total_seconds() if end and start else None,
    )  # fmt: skip
