"""Which trial is best: one order for the status, the checkpoints that are kept and the export."""

from __future__ import annotations

from collections.abc import Iterable

from optuna.trial import FrozenTrial, TrialState


def best_first(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """The complete trials, highest value first, of equals the earliest."""
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE and trial.value is not None]
    return sorted(complete, key=lambda trial: (-(trial.value or 0.0), trial.number))
