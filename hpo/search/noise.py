"""The noise of a study's best value: the trials that may be as good, and how much of the value is luck.

All of it comes from what each trial predicted for each validation image, which the trials keep (`outcomes_of`); trials
of earlier versions kept none, and are left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from hpo.evaluation.best_of_many import MeasuredValue, TrueValues, not_told_apart, own_errors
from hpo.evaluation.outcomes import Outcomes
from hpo.search.trial_record import TrialRecord, given_parameters, is_probe, original_of, outcomes_of


@dataclass(frozen=True)
class Rival:
    """A trial that costs no search, and the chance that the best trial is worse than it."""

    role: str
    """`first`: the first that was trained; `default`: the space's first known-good point; `probe`: the best probe."""
    trial: int
    value: float
    chance: float
    """Probability that the true value of the best trial is below that of this one."""
    pruned: bool
    """Whether it was ended early: it might have become better."""


@dataclass(frozen=True)
class FreshSeeds:
    """Values that the best trial's configuration gave when it was trained again."""

    promised: float
    """The value by which the search had chosen it."""
    trials: tuple[int, ...]
    """The replicates."""
    mean: float
    """Their mean value."""
    error: float | None
    """Standard error of the mean over the seeds; None for one seed."""


@dataclass(frozen=True)
class StudyNoise:
    """The noise of the best trial's value."""

    trial: int
    value: float
    error: float | None
    """Standard error of the value; None for a trial of an earlier version."""
    images: int = 0
    """Validation images on which the trials are compared; 0 where the best trial kept no predictions."""
    compared: int = 0
    """Other complete trials that are compared with it."""
    alike: tuple[int, ...] = ()
    """Those of them that cannot be told from it, with the replicates of its configuration left out."""
    expected: float | None = None
    """Its value as it is expected to be without the luck of having been chosen; None where nothing was compared."""
    rivals: tuple[Rival, ...] = ()
    fresh: FreshSeeds | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return {
            "trial": self.trial,
            "value": self.value,
            "standard_error": self.error,
            "images": self.images,
            "compared": self.compared,
            "not_told_apart": list(self.alike),
            "expected": self.expected,
            "chance_worse_than": {rival.role: _rival_to_dict(rival) for rival in self.rivals},
            "fresh_seeds": None if self.fresh is None else {**asdict(self.fresh), "trials": list(self.fresh.trials)},
        }


def _rival_to_dict(rival: Rival) -> dict[str, Any]:
    return {"trial": rival.trial, "value": rival.value, "chance": rival.chance, "pruned": rival.pruned}


@dataclass(frozen=True)
class _Kept:
    """Predictions of a finished trial, with a mark that only trials on the same images share."""

    measured: MeasuredValue
    images: str


class NoiseReader:
    """Compares the trials of one study; the predictions of a finished trial are read once."""

    def __init__(self, metric: str, robustness: float, default: Mapping[str, Any] | None = None) -> None:
        """`default` are the parameters of the space's first known-good point, None without one."""
        self._metric, self._robustness, self._default = metric, robustness, default
        self._kept: dict[int, _Kept | None] = {}
        self._last: tuple[Any, StudyNoise] | None = None

    def __call__(self, trials: Sequence[FrozenTrial], best: FrozenTrial) -> StudyNoise:
        """Return the noise of `best` among the `trials`; the last answer again where no other trial has finished."""
        key = best.number, [trial.number for trial in trials if trial.state.is_finished()]
        if self._last is None or self._last[0] != key:
            self._last = key, self._study_noise(trials, best)
        return self._last[1]

    def true_values(self, trials: Sequence[FrozenTrial], best: FrozenTrial) -> tuple[TrueValues, list[int]] | None:
        """Return what is known of the true values of the finished `trials`, and their numbers; None without any.

        Of a trial that was pruned the best epoch counts.
        """
        found = self._comparable(trials, best)
        if not found:
            return None
        numbers = list(found)
        errors = own_errors(list(found.values()), numbers.index(best.number))
        return TrueValues.of([one.value for one in found.values()], errors), numbers

    def _study_noise(self, trials: Sequence[FrozenTrial], best: FrozenTrial) -> StudyNoise:
        record = TrialRecord.of(best)
        plain = StudyNoise(best.number, best.value or 0.0, record.error, fresh=_fresh_seeds(trials, best))
        complete = {trial.number: trial for trial in trials if trial.state == TrialState.COMPLETE}
        found = self._comparable(list(complete.values()), best)
        if not found:
            return plain
        same = {number for number in found if original_of(complete[number]) == original_of(best)}
        others = {number: one for number, one in found.items() if number not in same}
        return StudyNoise(
            plain.trial, plain.value, plain.error, len(found[best.number].influences), len(others),
            tuple(not_told_apart(found[best.number], others)),
            self._expected(list(complete.values()), best) if others else None,
            self._rivals(trials, best, complete.keys()), plain.fresh,
        )  # fmt: skip

    def _expected(self, trials: Sequence[FrozenTrial], best: FrozenTrial) -> float | None:
        known = self.true_values(trials, best)
        return known[0].mean(known[1].index(best.number)) if known else None

    def _rivals(self, trials: Sequence[FrozenTrial], best: FrozenTrial, complete: Collection[int]) -> tuple[Rival, ...]:
        """Return the rivals, compared among the complete trials and themselves."""
        roles = {role: number for role, number in self._roles(trials).items() if number != best.number}
        judged = [trial for trial in trials if trial.number in complete or trial.number in roles.values()]
        known = self.true_values(judged, best)
        if known is None:
            return ()
        values, numbers = known
        of = numbers.index(best.number)
        return tuple(
            Rival(
                role, number, float(values.values[numbers.index(number)]),
                values.chance_worse(of, numbers.index(number)), number not in complete,
            )
            for role, number in roles.items()
            if number in numbers
        )  # fmt: skip

    def _roles(self, trials: Sequence[FrozenTrial]) -> dict[str, int]:
        """Return the trials with a role, by it."""
        ended = [trial for trial in trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
        trained = [trial for trial in ended if not is_probe(trial)]
        probes = [trial for trial in ended if is_probe(trial)]
        candidates = {
            "first": trained,
            "default": [trial for trial in trained if _is_given(trial, self._default)],
            "probe": sorted(probes, key=lambda trial: -(trial.value or 0.0)),
        }
        return {role: found[0].number for role, found in candidates.items() if found}

    def _comparable(self, trials: Sequence[FrozenTrial], best: FrozenTrial) -> dict[int, MeasuredValue]:
        """Return the finished trials that were measured on the images of `best`, itself among them, by number."""
        own = self._outcomes(best)
        if own is None:
            return {}
        kept = {trial.number: self._outcomes(trial) for trial in [*trials, best] if trial.state.is_finished()}
        return {number: one.measured for number, one in kept.items() if one is not None and one.images == own.images}

    def _outcomes(self, trial: FrozenTrial) -> _Kept | None:
        if trial.number not in self._kept:
            found = outcomes_of(trial)
            split = TrialRecord.of(trial).split_digest or ""
            self._kept[trial.number] = (
                _Kept(MeasuredValue.of(found, self._metric, self._robustness), _images(found, split)) if found else None
            )
        return self._kept[trial.number]


def _images(folds: Sequence[Outcomes], split: str) -> str:
    """Return a digest of the labels, of which images are altered, and of the split: equal for the same images."""
    digest = hashlib.sha256(split.encode())
    for one in folds:
        digest.update(one.labels.tobytes() + b"|" + one.altered_rows.tobytes() + b";")
    return digest.hexdigest()


def _is_given(trial: FrozenTrial, parameters: Mapping[str, Any] | None) -> bool:
    """Return whether a trial was enqueued with these parameters; False for None."""
    return parameters is not None and given_parameters(trial) == parameters


def _fresh_seeds(trials: Sequence[FrozenTrial], best: FrozenTrial) -> FreshSeeds | None:
    """Return what other seeds gave for the configuration of `best`; None where it was trained once."""
    same = {
        trial.number: trial.value or 0.0
        for trial in trials
        if trial.state == TrialState.COMPLETE and original_of(trial) == original_of(best)
    }
    promised = same.pop(original_of(best), None)
    if promised is None or not same:
        return None
    values = list(same.values())
    error = stdev(values) / len(values) ** 0.5 if len(values) > 1 else None
    return FreshSeeds(promised, tuple(same), fmean(values), error)
