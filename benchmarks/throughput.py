"""Compare the training speed of `fit` with a bare loop over the same network, with batches in memory.

    python benchmarks/throughput.py [--data DATA] [--weights FILE] [--images 1280] [--depths 1 0.5]

Without --data the images are drawn cells, and without --weights the backbone starts from random weights: the speed
depends on neither. Both run in turns, in one process, on the same images; the bare loop has no augmentation, no
validation and no logging, so the difference from 100 % is the cost of the engine.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from hpo.data import Part, open_dataset
from hpo.data.synthetic import write_cells
from hpo.device import cores, use_threads
from hpo.models import build_model
from hpo.models.classifier import freeze
from hpo.training import FitData, Runtime, fit
from search_spaces import TrialConfig

ROUNDS = 3
TRAIN_SHARE = 0.8
"""Share of the images for training in a data set without parts: a tenth each is for validation and test."""


def engine(config: TrialConfig, part: Part, classes: int, cache: Path) -> Iterator[float]:
    """Yield the images per second of each epoch of `fit`."""
    for result in fit(config, FitData(part, None, classes), Runtime(cache=cache)):
        yield result.images_per_second


def bare(config: TrialConfig, part: Part, classes: int) -> Iterator[float]:
    """Yield the images per second of each pass of a plain loop: forward, loss, backward, step."""
    built = build_model(config, classes)
    freeze(built.model, config.unfreeze_depth, config.unfreeze_from)
    model = built.model.to(memory_format=torch.channels_last).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=config.learning_rate, fused=True)
    loss = nn.CrossEntropyLoss(label_smoothing=config.label_smoothing)
    images = torch.from_numpy(part.images[part.indices]).permute(0, 3, 1, 2).float().sub(127.5).div(127.5)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.from_numpy(part.labels)
    while True:
        start = time.perf_counter()
        for rows in torch.randperm(len(labels)).split(config.batch_size):
            optimiser.zero_grad(set_to_none=True)
            loss(model(images[rows]), labels[rows]).backward()
            optimiser.step()
        yield len(labels) / (time.perf_counter() - start)


def main() -> None:
    """Print one line for each unfreeze depth and augmentation."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="labelled images; default: drawn cells")
    parser.add_argument("--weights", type=Path, help="weights of mobilenetv2_035; default: random")
    parser.add_argument("--images", type=int, default=1280)
    parser.add_argument("--depths", type=float, nargs="+", default=[1.0, 0.5])
    parser.add_argument("--augmentations", nargs="+", default=["flips", "geometric-colour"])
    options = parser.parse_args()
    use_threads(None)
    with tempfile.TemporaryDirectory(prefix="hpo-bench-") as folder:
        data = options.data or Path(folder) / "cells"
        if options.data is None:
            write_cells(data, math.ceil(options.images / TRAIN_SHARE), size=96, seed=0)
        dataset = open_dataset(data, image_size=96, cache=Path(folder))
        train, classes = dataset.train, len(dataset.classes)
        part = Part(train.images, train.indices[: options.images], train.labels[: options.images], train.names)
        print(f"{cores()} cores, {len(part)} images of 96 px, batch 64, median of {ROUNDS} epochs after one to warm up")
        start = {"weights": str(options.weights)} if options.weights else {"pretrained": False}
        print("depth  augmentation       bare img/s  fit img/s  share")
        for depth in options.depths:
            for augmentation in options.augmentations:
                config = TrialConfig(
                    backbone="mobilenetv2_035", **start, image_size=96, batch_size=64,
                    epochs=ROUNDS + 1, unfreeze_depth=depth, augmentation=augmentation, label_smoothing=0.1,
                    symmetry="dihedral",
                )  # fmt: skip
                compare(config, part, classes, Path(folder))


def compare(config: TrialConfig, part: Part, classes: int, cache: Path) -> None:
    """Run both loops in turns; the first round of each is discarded."""
    loops = bare(config, part, classes), engine(config, part, classes, cache)
    rounds = [[next(loop) for loop in loops] for _ in range(ROUNDS + 1)][1:]
    limit, reached = (statistics.median(column) for column in zip(*rounds, strict=True))
    name = f"{config.unfreeze_depth:5.2f}  {config.augmentation:17}"
    print(f"{name}  {limit:10.0f}  {reached:9.0f}  {reached / limit:5.0%}", flush=True)


if __name__ == "__main__":
    main()
