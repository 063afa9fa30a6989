"""What class weights, balanced sampling and oversampling do for rare classes, on real blood cells, under three seeds.

    python -m benchmarks.rare_classes ../shared

Trains mobilenetv2_035 at 64 pixels on 350 of the images of pbc96_small800.npz: 5 classes drawn by the seed have 10
images, the other 3 have 100. Measures the last epoch on the val part of pbc96_trainval.zip (1,710 images) and prints a
row of a Markdown table for each configuration: balanced accuracy, mean recall of the rare and of the common classes,
and accuracy, as the mean over the seeds with the values; and at the end the recall of each class, by seed.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hpo.data.dataset import Part, WholeData
from hpo.data.opening import open_whole
from hpo.evaluation.metrics import Logits, Report, report
from hpo.models import build_model
from hpo.models.inference import Predictor
from hpo.training import EpochResult, FitData, Runtime, fit
from hpo.training.state import unpack
from search_spaces import TrialConfig

SEEDS = range(3)
SIZE = 64
RARE, FEW, MANY = 5, 10, 100

WAYS: dict[str, dict[str, Any]] = {
    "every image once": {"epochs": 8},
    "class_weights: inverse": {"epochs": 8, "class_weights": "inverse"},
    "loss: balanced-softmax": {"epochs": 8, "loss": "balanced-softmax", "label_smoothing": 0.0},
    "balanced_sampling": {"epochs": 8, "balanced_sampling": True},
    "oversample_to: 100": {"epochs": 8, "oversample_to": MANY},
    "every image once, as many steps": {"epochs": 18},
    "balanced_sampling, as many steps": {"epochs": 18, "balanced_sampling": True},
}
"""800 images an epoch in place of 350: 8 epochs of the one have as many steps as 18 of the other."""

COLUMNS = ("balanced accuracy", "recall, rare", "recall, common", "accuracy")


@dataclass
class Found:
    """What one way of training gave, a row for each seed."""

    rows: list[dict[str, float]] = field(default_factory=list)
    recalls: list[Mapping[str, float]] = field(default_factory=list)

    def add(self, whole: Report, rare: Sequence[str]) -> None:
        """Add the report of a model for whose training `rare` classes had few images."""
        recalls = {name: score.recall for name, score in whole.classes.items()}
        common = [name for name in recalls if name not in rare]
        means = [float(np.mean([recalls[name] for name in names])) for names in (rare, common)]
        self.rows.append(dict(zip(COLUMNS, (whole.balanced_accuracy, *means, whole.accuracy), strict=True)))
        self.recalls.append(recalls)

    def cells(self) -> list[str]:
        """Return a cell for each column: the mean, and the value of each seed."""
        columns = [[row[column] for row in self.rows] for column in COLUMNS]
        return [f"{np.mean(values):.3f} ({', '.join(f'{value:.3f}' for value in values)})" for values in columns]


def main(shared: Path) -> None:
    """Print the table, then the recalls."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as cache:
        small = open_whole(shared / "data" / "pbc96_small800.npz", image_size=SIZE, cache=Path(cache)).part
        val = open_whole(shared / "data" / "pbc96_trainval.zip", image_size=SIZE, cache=Path(cache), part="val")
        print(f"| configuration | steps | {' | '.join(COLUMNS)} |\n|---|---|{'---|' * len(COLUMNS)}", flush=True)
        found = {name: measure(name, base_config(shared).replace(**way), small, val) for name, way in WAYS.items()}
    for seed in SEEDS:
        rare = rare_classes(seed, len(val.classes))
        names = [f"{name}{' (rare)' if label in rare else ''}" for label, name in enumerate(val.classes)]
        print(f"\nrecall with seed {seed}: {', '.join(names)}")
        for name, one in found.items():
            print(f"  {name}: {', '.join(f'{recall:.2f}' for recall in one.recalls[seed].values())}")
    print(f"\n{time.process_time() / 60:.0f} minutes of processor time")


def base_config(shared: Path) -> TrialConfig:
    """Return the configuration that all share."""
    return TrialConfig(
        backbone="mobilenetv2_035", weights=str(shared / "weights" / "mobilenetv2_035.safetensors"), image_size=SIZE,
        epochs=8, batch_size=64, learning_rate=3e-3, symmetry="dihedral", augmentation="geometric", warmup=0.1,
        label_smoothing=0.1, precision="fp32",
    )  # fmt: skip


def measure(name: str, config: TrialConfig, small: Part, val: WholeData) -> Found:
    """Train under each seed, print the row, and return what was found."""
    found, steps = Found(), 0
    for seed in SEEDS:
        positions: list[float] = []
        train = imbalanced(small, seed, len(val.classes))
        data = FitData(train, None, len(val.classes))  # validating after each epoch would take most of the time
        result = list(fit(config, data, Runtime(seed=seed, threads=1, on_step=positions.append)))[-1]
        rare = [val.classes[label] for label in rare_classes(seed, len(val.classes))]
        found.add(report(val.part.labels, logits_of(config, result, val), val.classes), rare)
        steps = len(positions)
    print(f"| {name} | {steps} | {' | '.join(found.cells())} |", flush=True)
    return found


def logits_of(config: TrialConfig, result: EpochResult, val: WholeData) -> Logits:
    """Return the logits of the model after its last epoch."""
    built = build_model(config, len(val.classes), initialise=False)
    built.model.load_state_dict(unpack(result.weights()))
    return Predictor(built.model, mean=result.facts["mean"], std=result.facts["std"]).logits(val.part)


def rare_classes(seed: int, classes: int) -> list[int]:
    """Return the labels of the classes that have few images under a seed."""
    return sorted(np.random.default_rng(seed).choice(classes, RARE, replace=False).tolist())


def imbalanced(train: Part, seed: int, classes: int) -> Part:
    """Return FEW images of the rare classes and MANY of the others."""
    rng, rare = np.random.default_rng((seed, 1)), rare_classes(seed, classes)
    rows = [
        rng.permutation(np.flatnonzero(train.labels == label))[: FEW if label in rare else MANY]
        for label in range(classes)
    ]
    return train.subset(np.concatenate(rows))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("shared", type=Path, help="folder with data/ and weights/")
    main(parser.parse_args().shared)
