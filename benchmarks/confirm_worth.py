"""Measure what training the best trials again is worth, with short real trainings on blood cells.

    python -m benchmarks.confirm_worth ../shared confirm.jsonl [--minutes 15]

Trains `--configurations` drawn from the space `quick` (mobilenetv2_035, 64 px, 4 epochs, 600 of the images of
pbc96_small800.npz) under `--seeds` seeds each, in two processes of one thread. A training's value is its accuracy on
the other 200 images in its best epoch; its truth that of the same weights on the 1,710 images of the val part of
pbc96_trainval.zip. Results do not depend on the load of the machine. Each training is one line of the file, written
when it is done: the command goes on where it was stopped, and an unfinished file gives figures of the seeds that all
configurations have.

Then studies of 20 trials are drawn: 20 configurations, for each a seed of its trial and one that confirms it. The other
seeds judge: merit is the mean of the truth over them. Two figures are for equal budgets: 20 trials of which the last 3
train the best 3 of 17 again, and 20 different trials.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
import torch
from optuna.trial import FrozenTrial, create_trial

from hpo.data.opening import open_whole
from hpo.evaluation.metrics import scores
from hpo.models import build_model
from hpo.models.inference import Predictor
from hpo.search.ranking import rank
from hpo.training import FitData, Runtime, fit
from hpo.training.state import unpack
from search_spaces import TrialConfig, load_space

SIZE, EPOCHS, VALIDATED = 64, 4, 200
TRIALS, TOP = 20, 3

Results = Mapping[tuple[int, int], tuple[float, float]]
"""(configuration, seed) -> accuracy on validation and on the 1,710 images."""


@dataclass(frozen=True)
class Task:
    """One training."""

    shared: Path
    cache: Path
    configuration: int
    seed: int


def configuration(shared: Path, number: int) -> TrialConfig:
    """Return a configuration of `quick`; it depends on its number alone."""
    weights = str(shared / "weights" / "mobilenetv2_035.safetensors")
    fixed = {
        "backbone": "mobilenetv2_035", "weights": weights, "pretrained": True, "image_size": SIZE, "epochs": EPOCHS,
        "symmetry": "dihedral", "precision": "fp32", "batch_size": 64,
    }  # fmt: skip
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=number))
    return load_space("quick").with_fixed(fixed).suggest(study.ask())


def train(task: Task) -> dict[str, Any]:
    """Train one configuration under one seed and return its line."""
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    small, truth, classes = _images(task.shared, task.cache)
    rows = np.random.default_rng(0).permutation(len(small))
    data = FitData(small.subset(np.sort(rows[VALIDATED:])), small.subset(np.sort(rows[:VALIDATED])), classes)
    config = configuration(task.shared, task.configuration)
    best, weights, facts = -1.0, b"", {}
    started = time.process_time()
    for result in fit(config, data, Runtime(seed=1_000 * task.configuration + task.seed, threads=1)):
        if result.metrics["accuracy"] > best:
            best, weights, facts = result.metrics["accuracy"], result.weights(), result.facts
    built = build_model(config, classes, initialise=False)
    built.model.load_state_dict(unpack(weights))
    logits = Predictor(built.model, mean=facts["mean"], std=facts["std"]).logits(truth)
    return {
        "configuration": task.configuration, "seed": task.seed, "value": best,
        "truth": scores(truth.labels, logits)["accuracy"], "seconds": round(time.process_time() - started, 1),
    }  # fmt: skip


@cache
def _images(shared: Path, folder: Path) -> tuple[Any, Any, int]:
    """Return the 800 images, the 1,710 and the number of classes."""
    small = open_whole(shared / "data" / "pbc96_small800.npz", image_size=SIZE, cache=folder)
    truth = open_whole(shared / "data" / "pbc96_trainval.zip", image_size=SIZE, cache=folder, part="val")
    return small.part, truth.part, len(truth.classes)


def read(file: Path) -> dict[tuple[int, int], tuple[float, float]]:
    """Return the trainings that are done."""
    lines = map(json.loads, file.read_text(encoding="utf-8").splitlines()) if file.exists() else ()
    return {(line["configuration"], line["seed"]): (line["value"], line["truth"]) for line in lines}


def train_missing(shared: Path, file: Path, configurations: int, seeds: int, minutes: float) -> None:
    """Train what the file lacks, seed by seed, until the time is up."""
    done, end = read(file), time.monotonic() + 60 * minutes
    with tempfile.TemporaryDirectory() as folder, _pool() as pool, file.open("a") as out:
        _images(shared, Path(folder))  # decoded once, before the processes read them
        missing = [pair for pair in product(range(seeds), range(configurations)) if pair[::-1] not in done]
        waiting = iter(missing)
        running = {pool.submit(train, Task(shared, Path(folder), one, seed)) for seed, one in _first(waiting, 2)}
        while running:
            finished = next(as_completed(running))
            running.remove(finished)
            out.write(json.dumps(finished.result()) + "\n")
            out.flush()
            if time.monotonic() < end:
                running |= {pool.submit(train, Task(shared, Path(folder), one, s)) for s, one in _first(waiting, 1)}


def _pool() -> ProcessPoolExecutor:
    # Not forked: a process that has decoded images may have threads whose locks a fork would copy.
    return ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn"))


def _first(pairs: Iterator[tuple[int, int]], count: int) -> list[tuple[int, int]]:
    return [pair for _, pair in zip(range(count), pairs, strict=False)]


@dataclass
class Tally:
    """What a way of choosing gave, one entry for each simulated study."""

    merit: list[float] = field(default_factory=list)
    """Mean truth of the chosen configuration, under the seeds that did not choose it."""
    delivered: list[float] = field(default_factory=list)
    """Truth of the weights that are delivered."""
    promised: list[float] = field(default_factory=list)
    """Value that is shown for it, less the mean value under other seeds."""
    is_best: list[bool] = field(default_factory=list)
    """Whether no other trial has a higher mean value under the other seeds."""

    def row(self) -> str:
        """Return the cells of a row of the table."""
        figures = [fmean(self.merit), fmean(self.delivered)]
        return f"{100 * figures[0]:.2f} | {100 * figures[1]:.2f} | {100 * fmean(self.promised):+.2f} | " + (
            f"{100 * fmean(self.is_best):.0f} %"
        )


@dataclass(frozen=True)
class Draw:
    """A simulated study: which configurations, and under which seeds."""

    value: npt.NDArray[np.float64]
    """(configurations, seeds), the seeds of each in an order of its own: trial, confirmation, judges."""
    truth: npt.NDArray[np.float64]

    @property
    def judged(self) -> npt.NDArray[np.float64]:
        """The mean value of each configuration under the seeds that choose nothing."""
        return np.asarray(self.value[:, 2:].mean(1))

    def add(self, tally: Tally, trials: int, again: Sequence[int] = ()) -> None:
        """Choose among the first `trials` configurations, some of which were trained `again`, and tally the choice."""
        made = [_trial(number, self.value[number, 0]) for number in range(trials)]
        made += [_trial(trials + i, self.value[one, 1], replicate_of=one) for i, one in enumerate(again)]
        winner = rank(made)[0]
        chosen = min(trial.number if trial.number < trials else again[trial.number - trials] for trial in winner.trials)
        tally.merit.append(float(self.truth[chosen, 2:].mean()))
        tally.delivered.append(float(self.truth[chosen, int(winner.trial.number >= trials)]))
        tally.promised.append(winner.mean - float(self.judged[chosen]))
        tally.is_best.append(bool(self.judged[chosen] >= self.judged[:trials].max()))


def _trial(number: int, value: float, **attributes: Any) -> FrozenTrial:
    made = create_trial(value=float(value), user_attrs=attributes)
    made.number = number
    return made


def simulate(results: Results, repeats: int) -> dict[str, Tally]:
    """Draw studies from the results and choose in each in three ways."""
    seeds = _complete_seeds(results)
    numbers = sorted({one for one, _ in results})
    table = np.array([[results[one, seed] for seed in seeds] for one in numbers])
    rng = np.random.default_rng(0)
    tallies = {f"best of {TRIALS}": Tally(), f"the same, {TOP} trained again": Tally()}
    tallies[f"best of {TRIALS - TOP}, {TOP} trained again: equal budget"] = Tally()
    first, again, equal = tallies.values()
    for _ in range(repeats):
        drawn = rng.permutation(len(numbers))[:TRIALS]
        order = np.argsort(rng.random((len(drawn), len(seeds))), axis=1)
        values = [np.take_along_axis(table[drawn, :, kind], order, axis=1) for kind in (0, 1)]
        study = Draw(*values)
        study.add(first, TRIALS)
        for tally, trials in ((again, TRIALS), (equal, TRIALS - TOP)):
            study.add(tally, trials, np.argsort(-study.value[:trials, 0], kind="stable")[:TOP].tolist())
    return tallies


def _complete_seeds(results: Results) -> list[int]:
    """Return the seeds under which all configurations are trained."""
    numbers = {one for one, _ in results}
    return [seed for seed in sorted({s for _, s in results}) if all((one, seed) in results for one in numbers)]


def main(arguments: argparse.Namespace) -> None:
    """Train what is missing and print the table."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    train_missing(
        arguments.shared.resolve(), arguments.file, arguments.configurations, arguments.seeds, arguments.minutes
    )
    results = read(arguments.file)
    seeds, numbers = _complete_seeds(results), sorted({one for one, _ in results})
    if len(seeds) < 3 or len(numbers) < TRIALS:
        print(f"{len(results)} trainings done; {TRIALS} configurations under 3 seeds are needed: run it again")
        return
    values = [[results[one, seed][0] for seed in seeds] for one in numbers]
    noise = float(np.sqrt(fmean(stdev(row) ** 2 for row in values)))
    means = [fmean(row) for row in values]
    print(f"{len(numbers)} configurations under {len(seeds)} seeds: standard deviation over seeds {100 * noise:.2f}")
    print(f"points, between the means of configurations {100 * stdev(means):.2f}; the best mean {100 * max(means):.2f}")
    print("\n| chosen | merit | delivered | promised too much | is the best under other seeds |\n|---|---|---|---|---|")
    for name, tally in simulate(results, arguments.repeats).items():
        print(f"| {name} | {tally.row()} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("shared", type=Path, help="folder with data/ and weights/")
    parser.add_argument("file", type=Path, help="results, a line for each training; continued if it exists")
    parser.add_argument("--configurations", type=int, default=24)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--minutes", type=float, default=15.0, help="no training is begun after so many minutes")
    parser.add_argument("--repeats", type=int, default=4_000, help="simulated studies")
    main(parser.parse_args())
