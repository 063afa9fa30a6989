"""A study over a trial list: workers train each planned trial once, with its seed, and keep all checkpoints."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from hpo.data import SplitOptions, open_dataset
from hpo.search.garbage import free
from hpo.search.plan import Plan, create_or_open_study
from hpo.search.status import StudyReader
from hpo.search.worker import WorkerOptions, work
from search_spaces import PlannedTrial, TrialConfig, TrialList
from storage import Database, open_store, read_limits, read_spec

pytestmark = pytest.mark.postgres

BASE = {"backbone": "test_resnet", "pretrained": False, "image_size": 32, "epochs": 1, "batch_size": 16}
TRIAL_LIST = TrialList(
    "pairs",
    "one configuration under two seeds, and another",
    tuple(
        PlannedTrial(f"{name} seed {seed}", TrialConfig.from_dict({**BASE, "learning_rate": rate}), seed)
        for name, rate, seed in (("slow", 1e-3, 0), ("slow", 1e-3, 1), ("fast", 1e-2, 1))
    ),
)


@pytest.fixture
def trained(database: Database, cells: Path, tmp_path: Path) -> optuna.Study:
    """Return the study of the trial list after a worker has finished it."""
    database.initialise()
    split = SplitOptions(seed=0, val_fraction=0.2, test_fraction=0.1)
    dataset = open_dataset(cells, image_size=32, cache=tmp_path / "cache", split=split)
    plan = Plan(cells, "pairs", TRIAL_LIST, None, "accuracy", "random", "none", split)
    study = create_or_open_study(database, plan, dataset)
    work(database, WorkerOptions(cells, "pairs", tmp_path / "cache", tmp_path / "artifacts", "cpu", keep=1))
    return study


def test_each_planned_trial_is_trained_once_and_kept(database: Database, trained: optuna.Study, tmp_path: Path) -> None:
    trials = trained.get_trials(deepcopy=False)
    assert [trial.params["run"] for trial in trials] == [entry.name for entry in TRIAL_LIST.entries]
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}
    assert [trial.user_attrs["config"] for trial in trials] == [entry.config.to_dict() for entry in TRIAL_LIST.entries]
    assert read_limits(trained).trials == 3
    store = open_store(tmp_path / "artifacts", read_spec(trained).id)
    assert all(store.has(trial.number, "best") for trial in trials), "what is compared is measured, the worst too"
    free(trained, store, 1)
    assert all(store.has(trial.number, "best") for trial in trials), "nor are they garbage"
    assert [line.params for line in StudyReader(database, trained)().trials] == [trial.params for trial in trials]


def test_planned_trials_of_one_seed_are_trained_with_one_seed(trained: optuna.Study) -> None:
    first, second, paired = (trial.user_attrs["seed"] for trial in trained.get_trials(deepcopy=False))
    assert second == paired != first
