"""Measure the time of a worker outside training and validation, in and between trials.

    python benchmarks/between_trials.py [--data ZIP --weights FILE] [--trials 8]

Runs one worker on a study of short trials against the embedded PostgreSQL and prints, for each trial, the seconds of
its epochs and the other seconds: proposing, building the network, loading its weights, choosing a compute format,
writing checkpoints, reporting, telling. The target is under 1 s and under 2 % of a trial of 60 s. Without --data the
images are synthetic cells and the backbone starts from random weights.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hpo.search.trial as trial_module
from hpo.cli.connect import connected
from hpo.data.synthetic import write_cells
from hpo.device import cores, use_threads
from hpo.search.worker import WorkerOptions, work
from hpo.training import EpochResult


class Stopwatch:
    """Replaces `fit` and records the seconds of its epochs for each trial; the rest is not training."""

    def __init__(self) -> None:
        self.inside: list[float] = []
        self.ends: list[float] = []
        self._fit = trial_module.fit

    def __call__(self, *arguments: Any) -> Iterator[EpochResult]:
        """Call `fit` and record the seconds of its epochs."""
        self.inside.append(0.0)
        for result in self._fit(*arguments):
            self.inside[-1] += result.seconds
            yield result
        self.ends.append(time.perf_counter())


def make_study(home: Path, data: Path, weights: Path | None, trials: int) -> None:
    """Create a study of two-epoch trials with `hpo init`."""
    start = ["--weights", str(weights)] if weights else ["--set", "pretrained=false", "--backbone", "mobilenetv2_035"]
    command = [
        sys.executable, "-m", "hpo", "init", str(data), "--study", "bench", "--space", "quick", "--home", str(home),
        "--trials", str(trials), "--pruner", "none", "--set", "epochs=2", *start,
    ]  # fmt: skip
    subprocess.run(command, check=True)


def main() -> None:
    """Create the study, work on it in this process, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--trials", type=int, default=8)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hpo-bench-") as folder:
        home = Path(folder) / "home"
        data = options.data or Path(folder) / "cells"
        if options.data is None:
            write_cells(data, 1600, size=96, seed=0)
        make_study(home, data, options.weights, options.trials)
        use_threads(None)
        stopwatch = trial_module.fit = Stopwatch()  # type: ignore[assignment]
        with connected(None, home) as db:
            start = time.perf_counter()
            work(db, WorkerOptions(data, "bench", home / "cache", home / "artifacts", "cpu"))
        report(stopwatch, start)


def report(watch: Stopwatch, start: float) -> None:
    """Print one line a trial, then the median and the share."""
    print(f"{cores()} cores\ntrial  training s  other s")
    others = []
    for number, (inside, end) in enumerate(zip(watch.inside, watch.ends, strict=True)):
        others.append(end - start - inside)
        print(
            f"{number:5}  {inside:10.2f}  {others[-1]:7.3f}"
            + ("  (start-up of the worker included)" if number == 0 else "")
        )
        start = end
    median = statistics.median(others[1:])
    print(f"median of the others {median:.3f} s: {median / 60:.2%} of a trial of 60 s (target: under 1 s and 2 %)")


if __name__ == "__main__":
    main()
