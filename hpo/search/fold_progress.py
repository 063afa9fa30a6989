"""A trial that trains a model on each of several folds: its steps, its value with the noise, and its generator.

Fold `k` (from 0) of a study whose longest run has E epochs reports epoch `e` at step k * E + e, so a step means the
same fold and epoch in every trial. The value at a step is the mean over the folds begun of the best metric so far in
each: in the first fold trials compare as in a study without folds, and after the last step it is the trial's value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from hpo.search.trial_record import FoldPlan, TrialProgress, pair_of
from hpo.seeds import derive_seed
from hpo.training import EpochResult, FitData, Runtime, Snapshot, fit
from hpo.training.loop import Epochs, Fitter
from search_spaces import TrialConfig

if TYPE_CHECKING:
    from hpo.evaluation.outcomes import Outcomes


@dataclass
class FoldedProgress(TrialProgress):
    """The progress of a trial over folds; `best_epoch` and `best_metrics` are those of the first, whose model is kept.

    `epochs` counts those of all folds.
    """

    folds: int = 0
    """Number of folds."""
    steps: int = 0
    """Steps of a fold: epochs of the longest run of the study."""
    fold: int = 0
    """The fold in training, from 0."""
    finished: int = 0
    """Folds that are trained to their end."""
    curves: list[list[float]] = field(default_factory=list)
    """The value after each epoch of each fold begun."""
    best_pairs: list[list[float]] = field(default_factory=list)
    """The metric on clean and on altered images at the best epoch of each fold begun; empty without robustness."""

    @property
    def values(self) -> list[float]:
        """The value of each finished fold: that of its best epoch, as a trial without folds reports it."""
        return [max(curve) for curve in self.curves[: self.finished]]

    @property
    def best_value(self) -> float:
        """The mean over the finished folds; before the first is finished, its best metric so far."""
        return fmean(self.values) if self.finished else max(self.curves[0], default=float("nan"))

    @property
    def best_figures(self) -> tuple[float, float]:
        """The means of the metric on clean and on altered images over the folds of `best_value`."""
        return _means(self.best_pairs[: max(1, self.finished)])

    @property
    def position(self) -> float:
        """The step reached; after the last epoch of a fold, that at which the next one begins."""
        if self.finished > self.fold:
            return float(self.finished * self.steps)
        return float(self.fold * self.steps + len(self.curves[self.fold]))

    @property
    def place(self) -> str:
        """The fold in training, for the log."""
        return f", fold {self.fold + 1}/{self.folds}"

    @property
    def best_so_far(self) -> str:
        """The value that the trial would have now, for the log."""
        if not self.finished:
            return super().best_so_far
        return f"{f'mean of {self.finished} folds' if self.finished > 1 else 'fold 1'} {self.best_value:.4f}"

    @property
    def reached(self) -> str:
        """How far the trial came, in words."""
        if self.finished:
            ended = "the first fold" if self.finished == 1 else f"the first {self.finished} folds"
            return f"in fold {min(self.finished + 1, self.folds)} of {self.folds}: the value is that of {ended}"
        return f"in fold 1 of {self.folds}, after epoch {self.epochs}: the value is that epoch's or an earlier one's"

    def add(self, result: EpochResult) -> bool:
        """Count one more epoch of the current fold; return True when it is the best so far of the first fold."""
        value, first = self.value_of(result.metrics), self.fold == 0
        while len(self.curves) <= self.fold:
            self.curves.append([])
        curve = self.curves[self.fold]
        self.improved = not curve or value > max(curve)
        curve.append(value)
        if self.improved and self.robustness:
            self.best_pairs[self.fold :] = [list(pair_of(result.metrics, self.metric))]
        if better := first and self.improved:
            self.best_epoch, self.best_metrics = result.epoch, dict(result.metrics)
        self.finished = self.fold + bool(result.last)
        self.last = self.finished == self.folds
        self._add_step(str(self.fold * self.steps + result.epoch))
        self._count(result)
        return better

    def keep_outcomes(self, outcomes: Outcomes) -> None:
        """Keep the outcomes of the epoch that was added last, if it is the best so far of its fold."""
        if len(self.outcomes) >= self.fold:  # else an earlier version, which kept none, trained the folds before
            self.outcomes[self.fold :] = [outcomes.sampled().encode()]

    @property
    def best_outcomes(self) -> list[str]:
        """The encoded outcomes of the folds of `best_value`."""
        return self.outcomes[: max(1, self.finished)]

    def _add_step(self, step: str) -> None:
        """Add a step to the curves: the means over the folds begun."""
        self.curve[step] = fmean(max(curve) for curve in self.curves)
        if self.robustness:
            self.clean_curve[step], self.altered_curve[step] = _means(self.best_pairs)

    def recorded(self) -> dict[str, Any]:
        """Return what the trial records; the folds have one attribute."""
        own = ("folds", "steps", "fold", "finished", "curves", "best_pairs")
        shared = {key: value for key, value in super().recorded().items() if key not in own}
        return {**shared, "folds": fold_summary(FoldPlan(self.folds, self.steps), self.curves, self.finished)}


def _means(pairs: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Return the mean of the first values, and of the second ones."""
    return fmean(first for first, _ in pairs), fmean(second for _, second in pairs)


def fold_summary(plan: FoldPlan, curves: Sequence[Sequence[float]], finished: int) -> dict[str, Any]:
    """Return the attribute `folds`, JSON-ready: plan, value and best epoch of each finished fold, noise, curves."""
    values = [max(curve) for curve in curves[:finished]]
    return {
        **plan.to_dict(),
        "values": values,
        "best_epochs": [curve.index(max(curve)) + 1 for curve in curves[:finished]],
        "standard_error": stdev(values) / len(values) ** 0.5 if len(values) > 1 else None,
        "curves": [list(curve) for curve in curves],
    }


def fit_folds(
    config: TrialConfig,
    data_of: Callable[[int], FitData],
    runtime: Runtime,
    progress: FoldedProgress,
    begin: Callable[[int], None],
    resume: Snapshot | None,
    fitter: Fitter = fit,
) -> Epochs:
    """Train on one fold after another, from that of `progress`; `resume` is a snapshot of it.

    The results are those of `fitter`; `data_of` gives the data of a fold, and `begin` gets its number before it trains.
    Each fold has a seed of its own, the first that of the trial.
    """
    for fold in range(progress.fold, progress.folds):
        begin(fold)
        start = float(fold * progress.steps)
        seed = derive_seed(runtime.seed, "fold", fold) if fold else runtime.seed
        own = replace(runtime, seed=seed, on_step=_shifted(runtime.on_step, start))
        with closing(fitter(config, data_of(fold), own, resume)) as epochs:
            yield from epochs
        resume = None


def _shifted(on_step: Callable[[float], None], start: float) -> Callable[[float], None]:
    return lambda position: on_step(start + position)
