"""The runs of a variation as its study has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from optuna.trial import TrialState

from hpo.ablation.contribution import Values
from hpo.ablation.variation import Variation
from search_spaces import RUN

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial


@dataclass(frozen=True)
class Seen:
    """What is known of one variation."""

    variation: Variation
    values: Values
    """The metric at the best epoch, by seed."""
    notes: tuple[str, ...]
    """Of runs that did not end as they should."""


def seen(study: optuna.Study, variations: Sequence[Variation], seeds: int) -> list[Seen]:
    """What `study` has of each variation under each seed."""
    trials = {trial.params.get(RUN): trial for trial in study.get_trials(deepcopy=False)}
    return [_seen(variation, [trials.get(variation.run(seed)) for seed in range(seeds)]) for variation in variations]


def _seen(variation: Variation, trials: Sequence[FrozenTrial | None]) -> Seen:
    values = {seed: value for seed, trial in enumerate(trials) if (value := best_value(trial)) is not None}
    notes = [f"{variation.run(seed)}: {ending}" for seed, trial in enumerate(trials) if (ending := _ending(trial))]
    return Seen(variation, values, tuple(notes))


def best_value(trial: FrozenTrial | None) -> float | None:
    """The metric at the best epoch, of a run that diverged of those before.

    None of a run that failed: that says nothing of its configuration, and its epochs so far are no whole run.
    """
    if trial is None or trial.state not in (TrialState.COMPLETE, TrialState.PRUNED):
        return None
    if trial.state == TrialState.COMPLETE:
        return trial.value
    return max(trial.intermediate_values.values(), default=None)


def _ending(trial: FrozenTrial | None) -> str | None:
    """Why a run did not reach its end, in words; None where it did."""
    if trial is None:
        return "not trained"
    if trial.state == TrialState.COMPLETE:
        return None
    return f"{trial.state.name.lower()}, {trial.user_attrs.get('reason', 'no reason on record')}"
