"""The search of a campaign: tiny networks on synthetic cells. A trial's curve depends on its number alone.

The sampler is `random`, seeded by the trial's number, and nothing is pruned, so neither the worker nor the order of the
trials matters. Trials report the validation loss and runs are compared to the last bit: an accuracy over some forty
images could hide a difference in the weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.trial import TrialState

from hpo.data import Dataset, SplitOptions, open_dataset
from hpo.data.synthetic import write_cells
from hpo.search.plan import Plan, create_or_open_study, set_budget
from hpo.seeds import derive_seed
from search_spaces import SearchSpace, TrialConfig
from storage import open_database, open_study, read_spec

STUDY = "chaos"
SEED = 7
IMAGE_SIZE = 32
SPLIT = SplitOptions(seed=SEED, val_fraction=0.2, test_fraction=0.1)


@dataclass(frozen=True)
class Bench:
    """Data and settings of every study of a campaign."""

    folder: Path
    trials: int
    epochs: int
    images: int
    poison: int = 0
    """Trials that kill every worker which trains them."""

    @property
    def poison_numbers(self) -> frozenset[int]:
        """Numbers of the trials that kill their workers, spread evenly over the study."""
        return frozenset((place + 1) * self.trials // (self.poison + 1) for place in range(self.poison))

    @property
    def cells(self) -> Path:
        return self.folder / "cells"

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    def prepare(self) -> None:
        """Draw the images and pack them, once for all workers."""
        write_cells(self.cells, self.images, size=IMAGE_SIZE, seed=SEED)
        open_dataset(self.cells, image_size=IMAGE_SIZE, cache=self.cache, split=SPLIT)

    def create_study(self, url: str) -> str:
        """Create the study in the database at `url`; return the id under which its files are stored."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        plan = Plan(self.cells, STUDY, self._space(), None, "loss", "random", "none", SPLIT)
        dataset = open_dataset(self.cells, image_size=IMAGE_SIZE, cache=self.cache, split=SPLIT)
        with open_database(url, home=self.folder / "unused") as db:
            db.initialise()
            study = create_or_open_study(db, plan, dataset)
            # Which trials are the best when the last ones are claimed depends on the faults.
            set_budget(db, study, self.trials, None, confirm=0)
            return read_spec(study).id

    def copy(self, url: str, name: str) -> None:
        """Copy the study with `optuna.copy_study`, including its id; the copy may train one more trial."""
        with open_database(url, home=self.folder / "unused", start_timeout=60.0) as db:
            optuna.copy_study(from_study_name=STUDY, from_storage=db.storage, to_storage=db.storage, to_study_name=name)
            copy = open_study(db, name)
            set_budget(db, copy, sum(trial.state != TrialState.WAITING for trial in copy.get_trials()) + 1, None)

    def sample(self) -> tuple[TrialConfig, Dataset]:
        """Return a configuration of the space, and the data."""
        dataset = open_dataset(self.cells, image_size=IMAGE_SIZE, cache=self.cache, split=SPLIT)
        return TrialConfig.from_dict(self._space().fixed), dataset

    def numbers(self) -> dict[int, int]:
        """Return the trial's number by the seed of its training, for every possible number."""
        return {derive_seed(SEED, "trial", number): number for number in range(2 * self.trials + 50)}

    def _space(self) -> SearchSpace:
        fixed = {
            "backbone": "test_byobnet", "pretrained": False, "image_size": IMAGE_SIZE, "epochs": self.epochs,
            "batch_size": 16, "augmentation": "geometric", "precision": "fp32", "warmup": 0.1,
        }  # fmt: skip
        dimensions = {
            "learning_rate": {"type": "float", "low": 1e-4, "high": 3e-3, "log": True},
            "dropout": {"type": "float", "low": 0.0, "high": 0.3},
            "optimiser": {"type": "choice", "choices": ["adamw", "sgd", "rmsprop", "lion", "nadam"]},
            "schedule": {"type": "choice", "choices": ["cosine", "constant", "plateau"]},
            "ema": {"type": "choice", "choices": [0.0, 0.9]},
        }
        values = {"name": "chaos", "summary": "tiny", "fixed": fixed, "dimensions": dimensions, "points": []}
        return SearchSpace.from_dict(values)
