"""What `background: mask` and oversampling are worth: one fixed configuration, three seeds, real blood cells.

    python -m benchmarks.rare_classes ../shared

Trains mobilenetv2_035 on the 800 images of pbc96_small800.npz, or on 350 of them (5 classes drawn by the seed have 10
images, the others 100), and measures on the val part of pbc96_trainval.zip. Prints a line for each configuration with
accuracy and balanced accuracy of the last epoch, by seed.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hpo.data import open_dataset
from hpo.data.dataset import Part
from hpo.training import FitData, Runtime, fit
from search_spaces import TrialConfig

SEEDS = range(3)
CLASSES, RARE, FEW = 8, 5, 10

WHOLE: dict[str, dict[str, Any]] = {"background keep": {}, "background mask": {"background": "mask"}}

IMBALANCED: dict[str, dict[str, Any]] = {
    "every image once": {"epochs": 8},
    "class weights": {"epochs": 8, "class_weights": "inverse"},
    "balanced sampling": {"epochs": 8, "balanced_sampling": True},
    "oversampled to 100": {"epochs": 8, "oversample_to": 100},
    "every image once, as many steps": {"epochs": 18},
    "balanced sampling, as many steps": {"epochs": 18, "balanced_sampling": True},
}
"""800 images an epoch in place of 350: 8 epochs of the one have as many steps as 18 of the other."""


def main(shared: Path) -> None:
    """Print the lines."""
    torch.set_num_threads(1)
    with np.load(shared / "data" / "pbc96_small800.npz") as arrays:
        images, labels = arrays["images"], arrays["labels"].ravel().astype(np.int64)
    train = Part(images, np.arange(len(images)), labels, [str(row) for row in range(len(images))])
    base = TrialConfig(
        backbone="mobilenetv2_035", weights=str(shared / "weights" / "mobilenetv2_035.safetensors"), image_size=96,
        epochs=6, batch_size=64, learning_rate=3e-3, symmetry="dihedral", augmentation="geometric", warmup=0.1,
        label_smoothing=0.1, precision="fp32",
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as cache:
        val = open_dataset(shared / "data" / "pbc96_trainval.zip", image_size=96, cache=Path(cache)).val
        for name, changes in WHOLE.items():
            report(f"800 images, {name}", base.replace(**changes), lambda seed: train, val)
        for name, changes in IMBALANCED.items():
            report(f"350 images, {name}", base.replace(**changes), lambda seed: imbalanced(train, seed), val)


def imbalanced(train: Part, seed: int) -> Part:
    """Return 10 images of five classes and 100 of the others."""
    rng = np.random.default_rng(seed)
    rare = set(rng.choice(CLASSES, RARE, replace=False).tolist())
    rows = [
        rng.permutation(np.flatnonzero(train.labels == label))[: FEW if label in rare else 100]
        for label in range(CLASSES)
    ]
    return train.subset(np.concatenate(rows))


def report(name: str, config: TrialConfig, part_of: Callable[[int], Part], val: Part) -> None:
    """Train under each seed and print the metrics of the last epoch."""
    results = [
        list(fit(config, FitData(part_of(seed), val, CLASSES), Runtime(seed=seed, threads=1)))[-1] for seed in SEEDS
    ]
    texts = []
    for metric in ("accuracy", "balanced_accuracy"):
        values = [result.metrics[metric] for result in results]
        texts.append(f"{metric} {np.mean(values):.4f} ({', '.join(f'{value:.4f}' for value in values)})")
    print(f"{name}: {'; '.join(texts)}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
