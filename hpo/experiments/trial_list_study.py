"""A study over a trial list: its plan, its name, the networks to try out before, and the trials that are left."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo.data import Dataset, SplitOptions
from hpo.data.changes import DataChanges
from hpo.models import weights_digest
from hpo.search.plan import Plan
from search_spaces import PlannedTrial, Space, TrialList
from storage import check_study_name

if TYPE_CHECKING:
    import optuna

_ARCHITECTURE_FIELDS = (
    "backbone", "pretrained", "weights", "normalisation", "image_size", "head_layers", "head_units",
    "head_activation", "drop_path",
)  # fmt: skip
"""Fields of a configuration that determine how its network is built."""


def plan_trial_list(
    data: Path,
    name: str | None,
    trials: TrialList,
    *,
    metric: str,
    split: SplitOptions,
    changes: DataChanges | None = None,
    robustness: float = 0.0,
) -> Plan:
    """Return the plan of a study over `trials`; `named_plan` completes it if there is no name.

    Raises StudyError for an invalid name.
    """
    if name is not None:
        check_study_name(name)
    path = trials.fixed.get("weights")
    return Plan(
        data=data, study=name or "", space=trials, weights_digest=weights_digest(Path(str(path))) if path else None,
        metric=metric, sampler="random", pruner="none", split=split, changes=changes, robustness=robustness,
    )  # fmt: skip


def named_plan(plan: Plan, dataset: Dataset) -> Plan:
    """Return the plan, with a name made from its content if it has none.

    The name has a digest of everything that the figures depend on, so that the same command opens the same study again.
    """
    if plan.study:
        return plan
    values = [plan.space.fingerprint, plan.weights_digest, plan.metric, dataset.fingerprint, dataset.split]
    options = [plan.split.seed, plan.split.val_fraction, plan.split.test_fraction, plan.split.max_unreadable]
    if plan.robustness:
        options.append(plan.robustness)
    digest = hashlib.sha256(json.dumps([*values, *options]).encode()).hexdigest()[:8]
    return replace(plan, study=f"{plan.space.name}-{digest}")


def one_trial_per_network(space: Space) -> TrialList:
    """Return the trial list with one trial for each network that is built differently."""
    assert isinstance(space, TrialList)
    chosen: dict[tuple[Any, ...], PlannedTrial] = {}
    for trial in space.entries:
        chosen.setdefault(tuple(getattr(trial.config, field) for field in _ARCHITECTURE_FIELDS), trial)
    return replace(space, entries=tuple(chosen.values()))


def unfinished_trials(study: optuna.Study) -> int:
    """Return the number of trials that have not ended."""
    return sum(not trial.state.is_finished() for trial in study.get_trials(deepcopy=False))
