"""How much of the difference between the best and the other trials each parameter explains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState, create_trial

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
