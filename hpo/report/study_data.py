"""The data of a study for its report, read once into plain values, and the importance of its parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState, create_trial

from hpo.search.line_to_beat import LineToBeat
from hpo.search.noise import StudyNoise
from hpo.search.ranking import RankedConfiguration
from hpo.search.status import StudyReader, StudyStatus, TrialStatus, moment
from hpo.search.trial_record import TrialRecord, stored_command
from storage import Convergence, Database, StudySpec, read_openings_of_data, read_spec

FEWEST = 12
"""Fewest finished trials for which importances are computed; from fewer they would be noise."""

BEST_SHARE = 0.1

MOST_RESULTS = 3
"""Measurements on the test part that are shown."""

FEWEST_BEST = 4
"""Fewest trials that count as the best; else a tenth of all."""


@dataclass(frozen=True)
class Importance:
    """The importance of the parameters, and the number of trials that it is from."""

    shares: Mapping[str, float]
    """Parameter -> share of the sum, the largest first."""
    best: int
    trials: int


def importances(trials: Sequence[FrozenTrial]) -> Importance | None:
    """Return how well each parameter separates the best trials from all, by PED-ANOVA (Watanabe et al. 2023).

    The method uses only the rank of a trial. Complete trials come first, by value; then pruned ones, by their last
    epoch, as TPE ranks them: without these a search that prunes well would have too few trials. None for fewer than
    FEWEST trials with parameters.
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
    """Return the finished trials that reported a value, best first."""

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
    """One trial of a study."""

    number: int
    state: str
    """complete, pruned, failed, running or waiting."""
    value: float | None
    """Best reported value; None before the first epoch."""
    curve: Sequence[float] = ()
    """The metric after each epoch; with folds, the mean of the best so far, over the epochs of all folds."""
    epochs: int = 0
    """Epochs of a full run."""
    params: Mapping[str, Any] = field(default_factory=dict)
    """Values of the searched parameters, by field of the configuration."""
    seconds: float = 0.0
    """Seconds of training, all attempts together."""
    ended: float | None = None
    """Seconds from the study's first start to this trial's end; None where it has not ended, or no start is known."""
    record: TrialRecord = field(default_factory=TrialRecord)
    """The attributes that the trial recorded."""

    @property
    def error(self) -> float | None:
        """The standard error of the value; None where it is not known."""
        return self.record.error

    @property
    def saved(self) -> int:
        """Epochs saved by pruning, those of all folds."""
        full = self.epochs * int(self.record.folds.get("count", 1))
        return max(0, full - len(self.curve)) if self.state == "pruned" else 0


@dataclass(frozen=True)
class StudyData:
    """A study at one moment."""

    name: str
    spec: StudySpec
    trials: Sequence[TrialData]
    best: int | None
    """Number of the best complete trial."""
    limit: int | None
    """Limit on the number of trials."""
    importance: Importance | None = None
    """None if there are too few trials."""
    command: str = ""
    """The command that created a study over a trial list; empty for a search."""
    probe: LineToBeat | None = None
    """The best frozen probe, and whether tuning beats it; None where no probe is complete."""
    noise: StudyNoise | None = None
    """The noise of the best trial's value; None before there is one."""
    converged: Convergence | None = None
    """Why the search ended before its limits; None where it did not."""
    test_results: Sequence[Mapping[str, Any]] = ()
    """The latest measurements on a test part of the study's data, as the ledger has them."""
    ranked: Sequence[RankedConfiguration] = ()
    """The configurations with a complete trial, the best first."""
    confirm: int = 0
    """How many of the best trials are trained again at the end."""

    @property
    def counts(self) -> dict[str, int]:
        """Number of trials by state, without zeros."""
        states = ("complete", "pruned", "failed", "running", "waiting")
        counted = {state: sum(trial.state == state for trial in self.trials) for state in states}
        return {state: count for state, count in counted.items() if count}

    @property
    def best_trial(self) -> TrialData | None:
        """The best complete trial; None before there is one."""
        return next((trial for trial in self.trials if trial.number == self.best), None)

    @property
    def best_first(self) -> list[TrialData]:
        """The complete trials, those of the best configuration first."""
        places = {trial.number: i for i, one in enumerate(self.ranked) for trial in one.trials}
        complete = [trial for trial in self.trials if trial.state == "complete"]
        return sorted(complete, key=lambda one: (places.get(one.number, 0), -(one.value or 0.0), one.number))

    @property
    def winner(self) -> RankedConfiguration | None:
        """The best configuration, if it was trained under several seeds; else None."""
        return next((one for one in self.ranked[:1] if len(one.values) > 1), None)

    @property
    def folds(self) -> int:
        """The number of folds on which each trial trains; 0 without folds."""
        return max((int(trial.record.folds.get("count", 0)) for trial in self.trials), default=0)

    @property
    def searches(self) -> bool:
        """Whether parameters were searched, rather than trials taken from a list."""
        return any(set(trial.params) - {"run"} for trial in self.trials)


def read_study(db: Database, study: optuna.Study) -> StudyData:
    """Read the data of `study` at this moment; raise StudyError if hpo did not create it."""
    status = StudyReader(db, study)()
    frozen = study.get_trials(deepcopy=False)
    start = _first_start(frozen)
    lines = {line.number: line for line in status.trials}
    trials = [_trial(trial, lines[trial.number], start) for trial in frozen if trial.number in lines]
    spec = read_spec(study)
    found = StudyData(
        study.study_name, spec, trials, _best(status), status.limits.trials, command=stored_command(study),
        probe=status.probe, noise=status.noise, converged=status.limits.converged,
        test_results=_test_results(db, spec), ranked=status.ranked,
        confirm=status.limits.confirm.within(status.limits.trials),
    )  # fmt: skip
    return replace(found, importance=importances(frozen)) if found.searches else found


def _test_results(db: Database, spec: StudySpec) -> list[dict[str, Any]]:
    found = [one for one in read_openings_of_data(db, spec.data_fingerprint) if one.get("accuracy") is not None]
    return found[-MOST_RESULTS:]


def _best(status: StudyStatus) -> int | None:
    return status.best.number if status.best else None


def _first_start(trials: Sequence[FrozenTrial]) -> datetime | None:
    """Return the start of the first trial, or None if it is unknown."""
    # Earlier versions recorded starts in local time as if it were UTC, as a trial shows that ended before its start.
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
