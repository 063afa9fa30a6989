"""What the altered part costs: processor time of an epoch of mobilenetv2_035 with and without it, by unfreeze depth.

    python -m benchmarks.altered_cost DATA [--weights FILE] [--images 4000] [--depths 0 0.5 1]

Both runs train on the same images in turns, one epoch each, with one thread. The features of validation and altered
images are computed once at depth 0, in the first epoch; `none` is depth 0 without augmentation, where those of the
training images are, too. The ratios are of the first epoch, and of all EPOCHS.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import torch

from hpo.data import open_dataset
from hpo.evaluation.altered_part import altered_part
from hpo.training import FitData, Runtime, fit
from search_spaces import TrialConfig

EPOCHS = 3


def epochs(config: TrialConfig, data: FitData) -> Iterator[float]:
    """Yield the processor seconds of each epoch."""
    with closing(fit(config, data, Runtime(robustness=0.5 if data.altered else 0.0))) as results:
        before = time.process_time()
        for _ in results:
            now = time.process_time()
            yield now - before
            before = time.process_time()


def main() -> None:
    """Print one line for each unfreeze depth."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights", type=Path, help="weights of mobilenetv2_035; default: random")
    parser.add_argument("--images", type=int, default=4000, help="training images, at most")
    parser.add_argument("--depths", nargs="+", default=["none", "0", "0.5", "1"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    start = {"weights": str(options.weights)} if options.weights else {"pretrained": False}
    with tempfile.TemporaryDirectory(prefix="hpo-bench-") as folder:
        cache = Path(folder)
        dataset = open_dataset(options.data, image_size=96, cache=cache)
        rows = np.random.default_rng(0).permutation(len(dataset.train))[: options.images]
        train, val = dataset.train.subset(rows), dataset.val
        before = time.process_time()
        altered = altered_part(val, cache, train=len(train))
        made = time.process_time() - before
        print(f"{len(train)} training, {len(val)} validation, {len(altered)} altered images, made in {made:.1f} s")
        data = [FitData(train, val, len(dataset.classes), part) for part in (None, altered)]
        print("depth  without s  with s  ratio  of the first epoch")
        for depth in options.depths:
            config = TrialConfig(
                backbone="mobilenetv2_035", **start, image_size=96, batch_size=64, precision="fp32", symmetry="none",
                epochs=EPOCHS, unfreeze_depth=0.0 if depth == "none" else float(depth),
                augmentation="none" if depth == "none" else "colour", augmentation_strength=0.5,
            )  # fmt: skip
            runs = [epochs(config, one) for one in data]
            taken = [[next(run) for run in runs] for _ in range(EPOCHS)]
            plain, robust = (sum(column) for column in zip(*taken, strict=True))
            first = taken[0][1] / taken[0][0]
            print(f"{depth:>5}  {plain:9.2f}  {robust:6.2f}  {robust / plain:5.3f}  {first:5.3f}", flush=True)


if __name__ == "__main__":
    main()
