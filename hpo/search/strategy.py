"""How configurations are proposed and how lagging trials end: optuna's samplers and pruners, with seeds of ours."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import optuna
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler

from hpo.errors import UsageError
from hpo.seeds import derive_seed

REDUCTION_FACTOR = 2
"""eta of successive halving (Li et al. 2020, ASHA): a rung lets the better half pass.

With the usual 3 or 4 hardly a trial outlives its first epoch beside known-good points; and that epoch, spent in
warm-up, says little of the last. Halving costs about as many epochs in all, and spreads them over more rungs.
"""

STARTUP_TRIALS = 8
"""Finished trials before TPE models anything. The known-good points of a space count, so fewer than optuna's 10 do."""


def make_sampler(name: str, seed: int) -> BaseSampler:
    """`tpe` (multivariate, conditional dimensions modelled in groups, running trials counted) or `random`."""
    if name == "random":
        return RandomSampler(seed=seed)
    if name != "tpe":
        raise UsageError(f"sampler is {name!r}, but must be tpe or random")
    with warnings.catch_warnings():
        # `group=True` is marked experimental; without it conditional parameters are sampled independently.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return TPESampler(n_startup_trials=STARTUP_TRIALS, multivariate=True, group=True, constant_liar=True, seed=seed)


def sampler_for_trial(name: str, study_seed: int) -> Callable[[int], BaseSampler]:
    """A function from the number of a trial to the sampler that proposes it.

    The seed follows from the study and that number alone: no two trials draw the same random configuration. One that is
    taken up anew before its parameters were written draws the same again from `random`; from `tpe` it may draw another,
    since that depends on what others have finished meanwhile.
    """
    return lambda number: make_sampler(name, derive_seed(study_seed, "sampler", number))


def make_pruner(name: str, epochs: int, first: int = 1) -> BasePruner:
    """The pruner `name` for runs of `epochs` epochs, which ends none before epoch `first`; an epoch is one resource.

    Before the last phase of a run its trials may differ in nothing but their seeds: `first` lies in that phase.
    The resources are integers: with "auto", optuna waits for the first complete trial, which is unfair in parallel.
    """
    if name == "successive-halving":
        return SuccessiveHalvingPruner(min_resource=first, reduction_factor=REDUCTION_FACTOR)
    if name == "hyperband":
        return HyperbandPruner(min_resource=first, max_resource=epochs, reduction_factor=REDUCTION_FACTOR)
    if name == "median":
        return MedianPruner(n_startup_trials=4, n_warmup_steps=first)
    if name == "none":
        return NopPruner()
    raise UsageError(f"pruner is {name!r}, but must be successive-halving, hyperband, median or none")
