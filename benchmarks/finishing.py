"""What each step of finishing gains on images that have chosen nothing: the test part, as it is and corrupted.

    python -m benchmarks.finishing DATA --weights mobilenetv2_035.safetensors --work WORK --minutes 6 --robustness 0.5

For each seed a short search is run in WORK (an earlier one goes on there), and its best trial is exported as it is,
with each step alone, whether that helps or not, with the steps that `--finish single` takes, and with those of
`--finish all`. Every bundle is measured by `hpo evaluate --corrupted` on the test part. A row of the Markdown table has
the means over the seeds, with the value of each: the gain on validation images that have not chosen the step, accuracy
on the test images as they are, under the corruptions that a search sees, and under those that none sees. Test accesses
are recorded in WORK alone.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpo.delivery.export import choose_trial, export_trial
from hpo.delivery.finished_export import FinishOptions, prepare, write_finished
from hpo.delivery.finishing import FinishedChoice, finish, try_alone
from hpo.delivery.finishing_steps import SEVERAL, SINGLE
from hpo.delivery.finishing_task import FinishingTask
from hpo.device import use_threads
from storage import CheckpointStore, open_database, open_store, open_study, read_spec

COLUMNS = ("validation gain", "clean", "seen", "unseen", "passes")


@dataclass(frozen=True)
class Settings:
    """What to search, and where."""

    data: Path
    weights: Path
    work: Path
    minutes: float
    robustness: float
    space: str
    backbone: str
    threads: int

    @property
    def home(self) -> Path:
        """The HOME of all studies."""
        return self.work / "home"

    @property
    def program(self) -> list[str]:
        """The command line program, in the interpreter that runs this."""
        return [sys.executable, "-m", "hpo"]


def main(settings: Settings, seeds: int) -> None:
    """Search, finish and measure under every seed, and print the table."""
    use_threads(settings.threads)
    rows: dict[str, list[dict[str, float]]] = {}
    for seed in range(seeds):
        for name, row in one_seed(settings, seed).items():
            rows.setdefault(name, []).append(row)
    print(f"| model | {' | '.join(COLUMNS)} |\n|---|{'---|' * len(COLUMNS)}")
    for name, found in rows.items():
        print(f"| {name} | {' | '.join(cell(found, column) for column in COLUMNS)} |")


def cell(rows: list[dict[str, float]], column: str) -> str:
    """Return the mean and the value of each seed."""
    values = [row[column] for row in rows]
    digits = 0 if column == "passes" else 4
    return f"{np.mean(values):.{digits}f} ({', '.join(f'{value:.{digits}f}' for value in values)})"


def one_seed(settings: Settings, seed: int) -> dict[str, dict[str, float]]:
    """Search with one seed and return a row for each model."""
    study = f"finishing-{seed}"
    call(
        settings, "run", settings.data, "--study", study, "--home", settings.home, "--space", settings.space,
        "--backbone", settings.backbone, "--weights", settings.weights, "--robustness", f"{settings.robustness:g}",
        "--seed", seed, "--timeout", f"{settings.minutes * 60:g}s", "--threads", settings.threads,
    )  # fmt: skip
    bundles = write_bundles(settings, study)
    rows: dict[str, dict[str, float]] = {}
    for name, (folder, gain, passes) in bundles.items():
        rows[name] = {"validation gain": gain, "passes": passes, **measured(settings, folder)}
        print(f"seed {seed}: {name}: {json.dumps(rows[name])}", file=sys.stderr, flush=True)
    return rows


def write_bundles(settings: Settings, name: str) -> dict[str, tuple[Path, float, float]]:
    """Write a bundle for each way of finishing; return its folder, its gain on validation and its forward passes."""
    folder, cache = settings.work / name, settings.home / "cache"
    with open_database(None, home=settings.home) as db:
        study = open_study(db, name)
        store = open_store(settings.home / "artifacts", read_spec(study).id)
        chosen = choose_trial(study)
        export_trial(study, chosen, store, folder / "alone", force=True)
        found: dict[str, tuple[Path, float, float]] = {"the best trial": (folder / "alone", 0.0, 1.0)}
        options = FinishOptions(cache, data=settings.data, data_named=True, seconds=3600.0)
        for kind in (*SINGLE, *SEVERAL):
            task = task_of(study, chosen, store, options)
            done = try_alone(task, kind)
            if isinstance(done, FinishedChoice):
                found[f"{kind.name} alone"] = written(task, done, folder / kind.name)
            else:
                print(f"{name}: {kind.name}: {done}", file=sys.stderr)
        for mode in ("single", "all"):
            task = task_of(study, chosen, store, options)
            done = finish(task, mode)
            place = folder / f"finished-{mode}"
            found[f"--finish {mode}"] = written(task, done, place) if done.finishing.taken else found["the best trial"]
            print(f"{name}: {mode}: {[one.name for one in done.finishing.taken]}", file=sys.stderr, flush=True)
    return found


def task_of(study: Any, chosen: Any, store: CheckpointStore, options: FinishOptions) -> FinishingTask:
    """Return the task of finishing; SystemExit with the reason where there is none."""
    found = prepare(study, chosen, store, options)
    if isinstance(found, str):
        raise SystemExit(f"nothing can be finished: {found}")
    return found


def written(task: FinishingTask, done: FinishedChoice, folder: Path) -> tuple[Path, float, float]:
    """Write the bundle; return its folder, its gain on validation images and its forward passes."""
    write_finished(task, done, folder, force=True)
    before = task.images.measured.value(task.logits)
    return folder, task.images.measured.value(done.crossed) - before, float(done.choice.forwards)


def measured(settings: Settings, bundle: Path) -> dict[str, float]:
    """Return the accuracy of a bundle on the test part, as it is and under both families."""
    words = ("evaluate", bundle, "--data", settings.data, "--home", settings.home, "--corrupted", "--json")
    answer = json.loads(call(settings, *words, "--threads", settings.threads))
    families = {one["family"]: one["accuracy"]["value"] for one in answer["corrupted"]["families"]}
    return {"clean": answer["accuracy"], "seen": families["seen"], "unseen": families["unseen"]}


def call(settings: Settings, *words: object) -> str:
    """Run the program and return its stdout; SystemExit with what it said where it fails."""
    done = subprocess.run(
        [*settings.program, *map(str, words)], stdout=subprocess.PIPE, text=True, check=False, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, words))} ended with exit code {done.returncode}")
    return done.stdout


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--robustness", type=float, default=0.5)
    parser.add_argument("--space", default="quick")
    parser.add_argument("--backbone", default="mobilenetv2_035")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    given = vars(parser.parse_args())
    given["work"].mkdir(parents=True, exist_ok=True)
    count = given.pop("seeds")
    main(Settings(**given), count)
