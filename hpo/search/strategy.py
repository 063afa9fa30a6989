"""The sampler and the pruner of a study: optuna's, with seeds and settings of ours."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from copy import copy

import optuna
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial

from hpo.errors import UsageError
from hpo.seeds import derive_seed
from hpo.training.stages import last_phase
from search_spaces import Space, TrialList

REDUCTION_FACTOR = 2
"""eta of successive halving (Li et al. 2020, ASHA): a rung lets the better half pass."""
# With the usual 3 or 4 hardly a trial outlives its first epoch beside known-good points; and that epoch, spent in
# warm-up, says little of the last. Halving costs about as many epochs in all, and spreads them over more rungs.

STARTUP_TRIALS = 8
"""Finished trials before TPE models anything. The known-good points of a space count, so fewer than optuna's 10 do."""


def sampler_for_trial(name: str, study_seed: int) -> Callable[[int], BaseSampler]:
    """Return a function from the number of a trial to the sampler that proposes it.

    The seed follows from the study and that number alone: no two trials draw the same random configuration. A trial
    that is claimed again before its parameters were written draws the same from `random`; from `tpe` it may draw
    another, since that depends on the trials that finished meanwhile.
    """
    return lambda number: make_sampler(name, derive_seed(study_seed, "sampler", number))


def make_sampler(name: str, seed: int) -> BaseSampler:
    """Return `tpe` (multivariate, conditional dimensions modelled in groups, running trials counted) or `random`."""
    if name == "random":
        return RandomSampler(seed=seed)
    if name != "tpe":
        raise UsageError(f"sampler is {name!r}, but must be tpe or random")
    with warnings.catch_warnings():
        # `group=True` is marked experimental; without it conditional parameters are sampled independently.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return TPESampler(n_startup_trials=STARTUP_TRIALS, multivariate=True, group=True, constant_liar=True, seed=seed)


def pruner_for_space(name: str, space: Space, folds: int = 1, probes: int = 0) -> BasePruner:
    """Return the pruner `name` for the runs of `space`, each on so many folds one after another.

    `probes` is the number of frozen probes in the study.
    """
    pruner = make_pruner(name, folds * max(space.values("epochs")), first_judged(space), probes)
    return LatestValuePruner(pruner) if name == "median" and folds > 1 else pruner


class LatestValuePruner(BasePruner):
    """Judges a trial by the value that it reported last, where `pruner` would take the best so far.

    The value of a trial over folds falls where a fold is harder than those before. Its best so far, often that of the
    first fold, is then no mean of as many folds as the values of other trials at this step.
    """

    def __init__(self, pruner: BasePruner) -> None:
        self._pruner = pruner

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Return whether `pruner` ends a trial that has reported nothing but its last value."""
        step = trial.last_step
        if step is None:
            return False
        latest = copy(trial)
        latest.intermediate_values = {step: trial.intermediate_values[step]}
        return self._pruner.prune(study, latest)


def first_judged(space: Space) -> int:
    """Return the epoch after which trials can first be compared: the first of the last phase of the longest run.

    Before that phase trials may differ in nothing but their seeds.
    """
    return 1 if isinstance(space, TrialList) else last_phase(space.largest()).start + 1


def make_pruner(name: str, epochs: int, first: int = 1, probes: int = 0) -> BasePruner:
    """Return the pruner `name` for runs of `epochs` epochs, which ends none before epoch `first`.

    An epoch is one unit of optuna's resource.
    """
    if name == "successive-halving":
        # Not "auto": with it optuna waits for the first complete trial, which is unfair in parallel.
        return SuccessiveHalvingPruner(min_resource=first, reduction_factor=REDUCTION_FACTOR)
    if name == "hyperband":
        return HyperbandPruner(min_resource=first, max_resource=epochs, reduction_factor=REDUCTION_FACTOR)
    if name == "median":
        # Probes are complete trials without an epoch to be compared at; the other pruners never see them.
        return MedianPruner(n_startup_trials=4 + probes, n_warmup_steps=first)
    if name == "none":
        return NopPruner()
    raise UsageError(f"pruner is {name!r}, but must be successive-halving, hyperband, median or none")
