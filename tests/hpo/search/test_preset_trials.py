"""Every preset as a study: created, and finished by a worker with its pruner."""

from __future__ import annotations

from pathlib import Path

import pytest
from optuna.trial import TrialState

from hpo.data import SplitOptions, open_dataset
from hpo.search.plan import Plan, check_models, create_or_open_study, set_budget
from hpo.search.worker import WorkerOptions, work
from search_spaces import SearchSpace, catalog
from storage import Database

pytestmark = pytest.mark.postgres

SMALL = {"image_size": 32, "batch_size": 16, "precision": "fp32"}
PRESETS = [space for space in catalog() if space.seed or not space.open]


def short(preset: SearchSpace) -> SearchSpace:
    """Return the preset on tiny images, two epochs to a phase, with what is large or needs a download replaced."""
    values = {**SMALL, "epochs": 2 * max(1, len(preset.phases))}
    if preset.fixed.get("oversample_to"):
        values["oversample_to"] = 12  # a few images more of some classes, in place of 42,000 in an epoch
    if preset.fixed.get("pretrained", True):
        values |= {"backbone": "test_resnet", "pretrained": False}
    return preset.with_fixed(values)


@pytest.mark.parametrize("preset", PRESETS, ids=lambda space: space.name)
def test_a_worker_can_finish_a_study_of_each_preset(
    preset: SearchSpace, database: Database, cells: Path, tmp_path: Path
) -> None:
    database.initialise()
    space, split = short(preset), SplitOptions(seed=0, val_fraction=0.2, test_fraction=0.1)
    check_models(space, 2)
    dataset = open_dataset(cells, image_size=32, cache=tmp_path / "cache", split=split)
    plan = Plan(cells, preset.name, space, None, "accuracy", "tpe", "successive-halving", split)
    study = create_or_open_study(database, plan, dataset)
    set_budget(database, study, 1, None)
    work(database, WorkerOptions(cells, preset.name, tmp_path / "cache", tmp_path / "artifacts", "cpu"))
    trial, *_ = study.get_trials(deepcopy=False)  # the rest of the points wait beyond the budget
    assert trial.state == TrialState.COMPLETE
    epochs = space.fixed["epochs"] if trial.user_attrs["trainable_parameters"] else 1
    assert sorted(trial.intermediate_values) == list(range(1, epochs + 1))
    assert trial.user_attrs["facts"]["phases"] == max(1, len(preset.phases))
