"""Which configuration of a study is the best: trials of the same parameters belong to one.

The value of one trial holds some luck, and the highest of many holds the most. A configuration that was trained under
several seeds is judged by all its values: configurations are ranked by a lower bound of their mean, so that one lucky
value does not outrank a configuration that did well twice. `benchmarks/confirm_rule.py` compares this rule with others.
Where no configuration was trained twice this is the order of the values.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from hpo.search.trial_record import TrialRecord, is_probe, original_of

LOWER = 1.645
"""Standard errors between the mean of a configuration and its lower bound (one-sided 95 % of a normal distribution)."""

LIGHT, SHORT = 1.05, 1.25
"""Work for an image, and seconds of an epoch, over the least ones, up to which models cost the same."""

TIED = 1.96
"""Standard errors of the difference within which two configurations cannot be told apart."""


@dataclass(frozen=True)
class RankedConfiguration:
    """Complete trials with the same parameters, under different seeds."""

    trials: tuple[FrozenTrial, ...]
    """The highest value first: that trial's weights are delivered."""
    values: tuple[float, ...]
    """The values that are compared: not of trials that the deadline cut short, where others went to their end."""
    noise: float | None = None
    """Standard deviation of a value over seeds, estimated from all configurations of the study with several trials."""

    @property
    def trial(self) -> FrozenTrial:
        """The trial that stands for the configuration."""
        return self.trials[0]

    @property
    def mean(self) -> float:
        """The mean of the values."""
        return fmean(self.values)

    @property
    def standard_error(self) -> float | None:
        """The standard error of the mean over seeds; None in a study without replicates."""
        return None if self.noise is None else self.noise / math.sqrt(len(self.values))

    @property
    def lower(self) -> float:
        """The lower bound of the mean; the value itself in a study without replicates."""
        return self.mean - LOWER * (self.standard_error or 0.0)

    def to_dict(self) -> dict[str, Any]:
        """Return the trials, their values, the mean and its bound, JSON-ready."""
        return {
            "trials": sorted(trial.number for trial in self.trials),
            "values": list(self.values),
            "mean": self.mean,
            "standard_error": self.standard_error,
            "lower": self.lower,
        }


def rank(trials: Iterable[FrozenTrial]) -> list[RankedConfiguration]:
    """Return the configurations with a complete trial, the best first, the earliest of equals first."""
    groups: dict[int, list[FrozenTrial]] = defaultdict(list)
    for trial in trials:
        if trial.state == TrialState.COMPLETE and trial.value is not None:
            groups[original_of(trial)].append(trial)
    ordered = [sorted(group, key=_by_value) for group in groups.values()]
    compared = [(group, _compared_values(group)) for group in ordered]
    noise = noise_of([values for _, values in compared])
    found = [
        RankedConfiguration(tuple(group), tuple(values), _noise_of_seeds(group, noise)) for group, values in compared
    ]
    return sorted(found, key=lambda one: (-one.lower, one.trial.number))


def _noise_of_seeds(group: Sequence[FrozenTrial], noise: float | None) -> float | None:
    """Return the standard deviation of a value of the group over seeds; a frozen probe draws nothing, so 0."""
    return 0.0 if noise is not None and is_probe(group[0]) else noise


def _by_value(trial: FrozenTrial) -> tuple[float, int]:
    return -(trial.value or 0.0), trial.number


def _compared_values(group: Sequence[FrozenTrial]) -> list[float]:
    """Return the values in the order of the trials, without those that were cut short where others were not."""
    whole = [trial for trial in group if TrialRecord.of(trial).reason is None] if len(group) > 1 else ()
    return [trial.value or 0.0 for trial in whole or group]


def noise_of(values: Iterable[Sequence[float]]) -> float | None:
    """Return the standard deviation within groups, pooled; None where no group has two values."""
    several = [group for group in values if len(group) > 1]
    if not several:
        return None
    squares = sum((value - fmean(group)) ** 2 for group in several for value in group)
    return math.sqrt(squares / sum(len(group) - 1 for group in several))


def replicated(params: Mapping[str, Any], number: int, trials: Iterable[FrozenTrial]) -> int | None:
    """Return the original of a trial with these parameters: the first other trial that has them; None without one.

    A trial that failed says nothing of its parameters, one that has not begun has none yet, and a probe has none.
    """
    for trial in trials:
        if trial.number == number or trial.state == TrialState.FAIL or trial.params != params:
            continue
        record = TrialRecord.of(trial)
        if record.config and record.probe is None:
            return original_of(trial)
    return None


def has_complete(original: int, trials: Iterable[FrozenTrial]) -> bool:
    """Return whether the trial number `original`, or a replicate of it, is complete."""
    return any(original_of(trial) == original for trial in trials if trial.state == TrialState.COMPLETE)


def configuration_of(ranked: Iterable[RankedConfiguration], number: int) -> RankedConfiguration | None:
    """Return the configuration that trial `number` belongs to; None where the trial is not complete."""
    return next((one for one in ranked if any(trial.number == number for trial in one.trials)), None)


def tied_with_best(
    ranked: Sequence[RankedConfiguration], error: Callable[[RankedConfiguration], float]
) -> list[RankedConfiguration]:
    """Return the configurations that cannot be told from the best by the standard errors of their means, best first."""
    best = ranked[0]
    return [one for one in ranked if best.mean - one.mean <= TIED * math.hypot(error(best), error(one))]


def error_on(images: int) -> Callable[[RankedConfiguration], float]:
    """Return a function to the standard error of a configuration's mean: over seeds, else binomial over so many images.

    The binomial one is that of an accuracy; trials are compared on the same images, so it is rather too large.
    """

    def error(one: RankedConfiguration) -> float:
        share = min(1.0, max(0.0, one.mean))
        return one.standard_error or math.sqrt(share * (1 - share) / max(1, images))

    return error


@dataclass(frozen=True)
class ModelCost:
    """The cost of a trial's model: in use first, then in training."""

    work: float
    """Parameters times pixels of an image: within a family of networks proportional to the work for one image."""
    epoch: float
    """Seconds of an epoch, training and validation."""
    parameters: float
    image_size: int

    @classmethod
    def of(cls, trial: FrozenTrial) -> ModelCost:
        """Return the cost of a trial; infinite where it is not recorded."""
        record = TrialRecord.of(trial)
        parameters, size = record.parameters or math.inf, int(record.config.get("image_size", 0))
        epoch = record.seconds / record.epochs if record.seconds and record.epochs else math.inf
        return cls(parameters * size**2, epoch, parameters, size)

    def __str__(self) -> str:
        return f"{self.parameters:,.0f} parameters at {self.image_size} px, {self.epoch:.3g} s an epoch"


def cheapest(tied: Sequence[RankedConfiguration]) -> RankedConfiguration:
    """Return the configuration whose model costs least in use; of equals one with short epochs, and of these the best.

    `tied` has the best first. Times of a shared machine differ by chance, so a little shorter is no reason.
    """
    costs = {one.trial.number: ModelCost.of(one.trial) for one in tied}
    least = min(cost.work for cost in costs.values())
    light = [one for one in tied if costs[one.trial.number].work <= LIGHT * least]
    shortest = min(costs[one.trial.number].epoch for one in light)
    return next(one for one in light if costs[one.trial.number].epoch <= SHORT * shortest)
