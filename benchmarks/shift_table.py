"""Which robustness and which space give models that hold: searches side by side, measured on the locked test part.

    python -m benchmarks.shift_table DATA WEIGHTS out/
    python -m benchmarks.shift_table DATA WEIGHTS out/ --minutes 120 --arm "robust, 0.5"
    python -m benchmarks.shift_table DATA WEIGHTS out/ --epochs-budget 60

Each arm is a study of its own (`hpo run`, 40 minutes), whose best trial is exported as it is, and finished where
`hpo export-best` can do that. Both are measured on the test part: as it is; under the ten corruptions that a search may
see, at five severities; every image under two of these, of any severity, in two draws; and under the fifteen that no
search sees. mCE is relative to the first arm, as it is.

With --epochs-budget a search ends after the trial in which so many epochs are reached, in place of a time: it has one
worker and one trial at a time, so that a busy machine gives the same result as a quiet one.

What is finished is kept in OUT/table.json, so that arms and steps may be run apart; a search that was interrupted is
deleted and begun anew. OUT/table.md has the table. Run it on a quiet machine: nothing else may use the cores.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any

import click
import numpy as np
import torch

import hpo
from hpo.bundle.access_ledger import AccessLedger
from hpo.bundle.corrupted_measurement import keep_record, measure_corrupted, new_record
from hpo.bundle.evaluate import evaluate_on, select
from hpo.bundle.model import BATCH_SIZE, Model
from hpo.cli import main as command_line
from hpo.data import Part
from hpo.device import cores
from hpo.evaluation.altered_part import altered_part
from hpo.evaluation.intervals import Score, clustered
from hpo.evaluation.robustness import relative_errors
from hpo.files import write_file
from hpo.markdown import NOTHING, to_document, to_markdown

ARMS: dict[str, tuple[str, float]] = {
    "quick, 0": ("quick", 0.0),
    "quick, 0.25": ("quick", 0.25),
    "robust, 0.25": ("robust", 0.25),
    "robust, 0.5": ("robust", 0.5),
    "robust, 0.75": ("robust", 0.75),
}
"""Space and robustness of each arm; the first is what the others are compared with."""

STATES = ("complete", "pruned", "failed")

MOST_COST = 0.3
"""Points that a default robustness may cost on clean images."""


@dataclass(frozen=True)
class Bench:
    """Where everything lies, and how long a search may last."""

    data: Path
    weights: Path
    out: Path
    size: int
    workers: int
    minutes: float
    epochs: int | None
    """Epochs that end a search, in place of the time."""
    seed: int

    @property
    def home(self) -> Path:
        """The home folder of all studies."""
        return self.out / "home"

    @property
    def budget(self) -> str:
        """The budget of a search, in words."""
        return f"{self.epochs} epochs" if self.epochs else f"{self.minutes:g} minutes"

    def study(self, arm: str) -> str:
        """Return the name of the arm's study."""
        return re.sub(r"[^a-z0-9]+", "-", f"{arm} {self.budget} {self.seed}")

    def bundle(self, arm: str, kind: str) -> Path:
        """Return the folder of the arm's bundle, single or finished."""
        return self.out / "bundles" / f"{self.study(arm)}-{kind}"


def call(bench: Bench, *words: object) -> str:
    """Run `hpo` with these words at the bench's home; return what it prints on stdout, and end where it fails."""
    command = [sys.executable, "-m", "hpo", *map(str, words), "--home", str(bench.home)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[2:])} ended with {done.returncode}")
    return done.stdout


def search(bench: Bench, arm: str) -> dict[str, Any]:
    """Run the search of an arm; return how many trials it has, and what the machine did meanwhile."""
    space, robustness = ARMS[arm]
    if bench.study(arm) in {one["study"] for one in studies(bench)}:
        call(bench, "delete", bench.study(arm), "--yes")
    words = [
        "run", bench.data, "--study", bench.study(arm), "--space", space, "--weights", bench.weights,
        "--set", f"image_size={bench.size}", "--robustness", robustness, "--seed", bench.seed, "--device", "cpu",
    ]  # fmt: skip
    started, load = time.monotonic(), [os.getloadavg()[0]]
    if bench.epochs is None:
        call(bench, *words, "--workers", bench.workers, "--timeout", f"{bench.minutes:g}m", "--trials", 1000)
    else:
        search_by_epochs(bench, arm, [*words, "--workers", 1, "--threads", 1])
    rows = trials(bench, arm)
    return {
        "trials": {state: sum(row["state"] == state for row in rows) for state in STATES},
        "epochs": sum(row["epoch"] for row in rows),
        "minutes": round((time.monotonic() - started) / 60, 1),
        "load": [*load, os.getloadavg()[0]],
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
    }


def search_by_epochs(bench: Bench, arm: str, words: Sequence[object]) -> None:
    """Train one trial after the other until the study has so many epochs; none is confirmed between."""
    count = 0
    while count == 0 or sum(row["epoch"] for row in trials(bench, arm)) < (bench.epochs or 0):
        count += 1
        call(bench, *words, "--confirm", 0, "--trials", count)


def studies(bench: Bench) -> list[dict[str, Any]]:
    """Return the studies of the bench's home; none where there is no home yet."""
    found: list[dict[str, Any]] = json.loads(call(bench, "studies", "--json")) if bench.home.is_dir() else []
    return found


def trials(bench: Bench, arm: str) -> list[dict[str, Any]]:
    """Return the trials of the arm's study."""
    found: list[dict[str, Any]] = json.loads(call(bench, "trials", bench.study(arm), "--json"))
    return found


def export_options() -> set[str]:
    """Return the options of `hpo export-best`."""
    command = command_line.get_command(click.Context(command_line), "export-best")
    return {name for option in command.params for name in (*option.opts, *option.secondary_opts)}


def kinds() -> tuple[str, ...]:
    """Return the kinds of bundles: single, and finished where `hpo export-best` knows that."""
    return ("single", "finished") if "--finish" in export_options() else ("single",)


def export(bench: Bench, arm: str, kind: str) -> None:
    """Write the best trial of an arm as a bundle, finished or as it is."""
    known, words = export_options(), ["--study", bench.study(arm), "--out", bench.bundle(arm, kind), "--force"]
    if kind == "finished":
        words += ["--finish", "all", *(["--data", bench.data] if "--data" in known else [])]
    elif "--no-finish" in known:
        words.append("--no-finish")
    call(bench, "export-best", *words)


def measure(bench: Bench, folder: Path) -> dict[str, Any]:
    """Measure a bundle on the test part of its data; the access is recorded, and the result kept in the bundle."""
    torch.set_num_threads(cores())
    cache, model = bench.home / "cache", hpo.load(folder, device="cpu")
    selection = select(model.bundle, bench.data, cache=cache, split="test")
    evaluate_on(model, selection, ledger=AccessLedger(bench.home))
    found = measure_corrupted(model, selection.part, cache)
    keep_record(folder, new_record(found, selection.part, "test", selection.fingerprint))
    wrong = np.flatnonzero(model.logits_of(selection.part.batches(BATCH_SIZE)).argmax(axis=1) != selection.part.labels)
    return {
        **found.to_dict(),
        "altered": twice_altered(model, selection.part, cache).to_dict(),
        "wrong": wrong.tolist(),
    }


def twice_altered(model: Model, part: Part, cache: Path) -> Score:
    """Return the accuracy with every image under two alterations, of any severity, in two draws."""
    altered = altered_part(part, cache, train=16 * len(part))
    return clustered(model.logits_of(altered.batches(BATCH_SIZE)).argmax(axis=1) == altered.labels, altered.rows)


def run_arm(bench: Bench, arm: str, kept: KeptArms) -> None:
    """Do the steps of an arm that are missing, each kept as soon as it ends."""
    known = kept.of(arm)
    if "search" not in known:
        kept.keep(arm, "search", search(bench, arm))
    for kind in kinds():
        if kind not in known:
            export(bench, arm, kind)
            kept.keep(arm, kind, measure(bench, bench.bundle(arm, kind)))


class KeptArms:
    """The results in a file, each written as soon as it is there."""

    def __init__(self, path: Path, setting: Mapping[str, Any]) -> None:
        self._path = path
        stored = json.loads(path.read_text()) if path.is_file() else {"setting": dict(setting), "arms": {}}
        if stored["setting"] != setting:
            raise SystemExit(f"{path} has results of {stored['setting']}, not of {dict(setting)}: name another folder")
        self._stored = stored

    def of(self, arm: str) -> dict[str, Any]:
        """Return the results of an arm by step."""
        found: dict[str, Any] = self._stored["arms"].get(arm, {})
        return found

    def keep(self, arm: str, step: str, result: Mapping[str, Any]) -> None:
        """Write a result into the file."""
        self._stored["arms"].setdefault(arm, {})[step] = dict(result)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_file(self._path, json.dumps(self._stored, indent=1))


HEADER = (
    "space, robustness", "model", "trials", "clean, %", "difference, points", "seen, %", "mild", "strong",
    "two alterations, %", "unseen, %", "mCE",
)  # fmt: skip


def document(arms: Mapping[str, Mapping[str, Any]], about: str) -> str:
    """Return the table in Markdown, with what the default robustness follows from."""
    first = next(iter(ARMS))
    base = arms.get(first, {}).get("single")
    rows = [
        row(arm, kind, found, base if (arm, kind) != (first, "single") else None)
        for arm, found in arms.items()
        for kind in ("single", "finished")
        if kind in found
    ]
    return to_document("Robustness and spaces", [to_markdown(HEADER, rows, left=2)], [*cost_lines(arms, base), about])


def row(arm: str, kind: str, found: Mapping[str, Any], base: Mapping[str, Any] | None) -> list[str]:
    """Return the row of one model; relative to `base`, where there is one."""
    measured, families = found[kind], families_of(found[kind])
    seen = [step for by_severity in families["seen"].values() for step in by_severity.items()]
    mild, strong = (fmean(share for severity, share in seen if severity in some) for some in ((1, 2), (4, 5)))
    relative = relative_errors(families["unseen"], families_of(base)["unseen"]).mean if base else 1.0
    counts = ", ".join(f"{count} {state}" for state, count in found["search"]["trials"].items() if count)
    return [
        arm, kind, counts, score(measured["clean"]), difference(measured, base) if base else NOTHING,
        score(accuracy_of(measured, "seen")), f"{100 * mild:.1f}", f"{100 * strong:.1f}", score(measured["altered"]),
        score(accuracy_of(measured, "unseen")), NOTHING if relative is None else f"{relative:.3f}",
    ]  # fmt: skip


def score(found: Mapping[str, Any]) -> str:
    """Return a share in per cent with its interval."""
    low, high = found["interval"]
    return f"{100 * found['value']:.2f} ({100 * low:.1f}–{100 * high:.1f})"


def accuracy_of(measured: Mapping[str, Any], family: str) -> Mapping[str, Any]:
    """Return the score under one family."""
    return next(one["accuracy"] for one in measured["families"] if one["family"] == family)


def families_of(measured: Mapping[str, Any]) -> dict[str, dict[str, dict[int, float]]]:
    """Return accuracies by family, kind and severity."""
    table: dict[str, dict[str, dict[int, float]]] = {}
    for family in measured["families"]:
        kinds_of = table.setdefault(family["family"], {})
        for one in family["conditions"]:
            kinds_of.setdefault(one["corruption"], {})[one["severity"]] = one["correct"] / one["images"]
    return table


def gap(measured: Mapping[str, Any], base: Mapping[str, Any]) -> tuple[float, float]:
    """Return the difference on clean images in points and half its 95 % interval, by the images where they differ."""
    ours, theirs, n = set(measured["wrong"]), set(base["wrong"]), measured["images"]
    lost, gained = len(ours - theirs), len(theirs - ours)
    variance = (lost + gained - (lost - gained) ** 2 / n) / n**2
    return 100 * (gained - lost) / n, 196 * math.sqrt(max(variance, 0.0))


def difference(measured: Mapping[str, Any], base: Mapping[str, Any]) -> str:
    """Return the difference on clean images with its interval."""
    mean, half = gap(measured, base)
    return f"{mean:+.2f} ± {half:.2f}"


def cost_lines(arms: Mapping[str, Mapping[str, Any]], base: Mapping[str, Any] | None) -> list[str]:
    """Return what each robustness costs on clean images, beside what a default may cost."""
    costs = {arm: -gap(found["single"], base)[0] for arm, found in arms.items() if base and "single" in found}
    costs.pop(next(iter(ARMS)), None)
    if not costs:
        return []
    shown = "; ".join(f"{arm}: {cost:.2f}{' (allowed)' if cost < MOST_COST else ''}" for arm, cost in costs.items())
    return [f"Cost on clean images in points, of which a default may cost less than {MOST_COST}: {shown}."]


def about_line(bench: Bench, arms: Mapping[str, Mapping[str, Any]]) -> str:
    """Return how the table came about."""
    loads = [one for found in arms.values() for one in found.get("search", {}).get("load", [])]
    dates = sorted({found["search"]["date"][:10] for found in arms.values() if "search" in found})
    images = {one["images"] for found in arms.values() for one in found.values() if "images" in one}
    epochs = ", ".join(f"{arm}: {found['search']['epochs']}" for arm, found in arms.items() if "search" in found)
    workers = 1 if bench.epochs else bench.workers
    return (
        f"{bench.data.name}, {bench.weights.stem}, {bench.size} pixels, {bench.budget} for each search with {workers} "
        f"worker{'' if workers == 1 else 's'}, seed {bench.seed}; {', '.join(map(str, sorted(images)))} test images. "
        f"{platform.machine()}, {cores()} cores, load {min(loads, default=0):.1f} to {max(loads, default=0):.1f} "
        f"before and after the searches; {', '.join(dates)}. Epochs trained: {epochs}."
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what is missing of the arms that are asked for; write and print the table of all that is there."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--arm", action="append", choices=list(ARMS), help="default: all; repeatable")
    parser.add_argument("--minutes", type=float, default=40.0, help="of each search")
    parser.add_argument("--epochs-budget", type=int, default=None, help="epochs of each search, in place of minutes")
    parser.add_argument("--size", type=int, default=96, help="side of the images")
    parser.add_argument("--workers", type=int, default=cores(), help="of each search by minutes, one thread each")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    bench = Bench(
        given.data, given.weights, given.out, given.size, given.workers, given.minutes, given.epochs_budget, given.seed
    )
    setting = {"data": given.data.name, "budget": bench.budget, "size": bench.size, "seed": bench.seed}
    kept = KeptArms(given.out / "table.json", setting)
    for arm in given.arm or ARMS:
        run_arm(bench, arm, kept)
    found = {name: kept.of(name) for name in ARMS if kept.of(name)}
    text = document(found, about_line(bench, found))
    write_file(given.out / "table.md", text)
    print(text)


if __name__ == "__main__":
    main()
