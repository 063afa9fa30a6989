from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import optuna
import pytest
import torch

from hpo.data import Dataset, ImageDigests, SplitOptions, open_dataset
from hpo.data.synthetic import write_cells
from hpo.search.plan import Plan, create_or_open_study, set_budget
from hpo.search.strategy import make_pruner, sampler_for_trial
from hpo.search.worker_context import Deadline, EvictionOrder, WorkerContext
from search_spaces import SearchSpace
from storage import Claim, Database, RetryPolicy, Worker, claim_trial, open_database, open_store, open_study, read_spec

SPACE = {
    "name": "tiny",
    "summary": "two epochs of a small network on tiny images",
    "fixed": {
        "backbone": "test_resnet",
        "pretrained": False,
        "image_size": 32,
        "epochs": 2,
        "batch_size": 16,
        "augmentation": "flips",
        "symmetry": "dihedral",
        "precision": "fp32",
    },
    "dimensions": {"learning_rate": {"type": "float", "low": 1e-3, "high": 1e-2, "log": True}},
    "points": [{"learning_rate": 3e-3}],
}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of 80 synthetic cells of 32 pixels."""
    folder = tmp_path_factory.mktemp("cells") / "cells"
    write_cells(folder, 80, size=32, seed=0)
    return folder


@pytest.fixture
def tiny_space() -> SearchSpace:
    return SearchSpace.from_dict(SPACE)


@dataclass
class FakeDeadline(Deadline):
    """A deadline that has passed once `passed` says so."""

    passed: Callable[[], bool]

    def read(self) -> None:
        """Do nothing: there is no deadline to read."""

    def has_passed(self) -> bool:
        return self.passed()


@dataclass
class Bench:
    """A study, its data, and worker contexts on it."""

    db: Database
    study: optuna.Study
    dataset: Dataset
    folder: Path
    cells: Path

    def context(
        self,
        space: SearchSpace,
        *,
        stop: Callable[[], bool] = lambda: False,
        up: Callable[[], bool] = lambda: False,
        lease: float = 60.0,
    ) -> WorkerContext:
        return WorkerContext(
            db=self.db, study=self.study, worker=Worker(device="cpu", seconds=lease),
            sampler=sampler_for_trial("random", 0), space=space, metric="accuracy", seed=0,
            store=open_store(self.folder / "artifacts", read_spec(self.study).id), keep=2,
            dataset=lambda _: self.dataset, cache=self.folder / "cache", deadline=FakeDeadline(self.db, self.study, up),
            eviction=EvictionOrder(()), retry=RetryPolicy(grace=5.0, should_stop=stop),
            known=ImageDigests.of(self.dataset),
        )  # fmt: skip

    def claim(self, lease: float = 60.0) -> Claim:
        """Claim the next trial for a worker of its own."""
        claim = claim_trial(self.db, self.study, Worker(device="cpu", seconds=lease))
        assert isinstance(claim, Claim), claim
        return claim


@pytest.fixture
def bench(database: Database, cells: Path, tiny_space: SearchSpace, tmp_path: Path) -> Bench:
    database.initialise()
    split = SplitOptions(seed=0, val_fraction=0.2, test_fraction=0.1)
    plan = Plan(cells, "tiny", tiny_space, None, "accuracy", "tpe", "none", split)
    dataset = open_dataset(cells, image_size=32, cache=tmp_path / "cache", split=split)
    study = create_or_open_study(database, plan, dataset)
    study.pruner = make_pruner("none", 2)
    set_budget(database, study, 10, None)
    return Bench(database, study, dataset, tmp_path, cells)


@pytest.fixture
def restored(bench: Bench, other_database_url: str) -> Iterator[Bench]:
    """Yield the same study in another database of the server, as a restored dump has it."""
    with open_database(other_database_url, home=bench.folder / "unused") as database:
        optuna.copy_study(from_study_name="tiny", from_storage=bench.db.storage, to_storage=database.storage)
        yield Bench(database, open_study(database, "tiny"), bench.dataset, bench.folder, bench.cells)
