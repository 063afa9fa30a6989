"""What each choice of a recipe is worth on images that look different: three seeds, with intervals.

    python -m benchmarks.shift_parts ../shared parts/
    python -m benchmarks.shift_parts ../shared points/ --part points --images 4000 --epochs 6 --size 96

Trains mobilenetv2_035 on some of the train part of pbc96_trainval.zip with one thread, and measures the last epoch on
other images of it: as they are; under two corruptions that a search may see (of any severity, in two draws); and once
under each of the fifteen that no search sees. Parts: which blocks train, normalisation, families of augmentation, and
what may be done to a trained model (finishing): weights on the line to the original ones (WiSE-FT), the mean of eight
views, and BatchNorm statistics adapted to 32 unlabelled images of each condition; and the candidates for the first of
the `points` of the space `quick`.

Each run is kept in OUT/runs.json, so that a run that was interrupted goes on; the results do not depend on what else
the machine does. OUT/table.md has the tables: means over the seeds, and the difference from the first line with the
95 % interval of Student's t over the seeds. All runs are measured on the same images, whose number the interval does
not cover.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from hpo.bundle.model import VIEWS
from hpo.data.dataset import Images, Part
from hpo.data.opening import open_whole
from hpo.delivery.interpolate import between
from hpo.device import cores
from hpo.evaluation.altered_part import altered_part
from hpo.evaluation.calibration import probabilities
from hpo.evaluation.corrupted_copy import CorruptedCopy, corrupted_copy
from hpo.evaluation.intervals import paired
from hpo.files import write_file
from hpo.markdown import NOTHING, to_document, to_markdown
from hpo.models import build_model
from hpo.models.adapted_statistics import adapt_statistics
from hpo.models.built_model import BuiltModel
from hpo.models.compute_format import ComputeFormat, Normaliser
from hpo.models.inference import Predictor
from hpo.training import FitData, Runtime, fit
from hpo.training.state import unpack
from hpo.unseen_corruptions import UNSEEN
from search_spaces import TrialConfig

VERSION = 1
"""Version of the runs: it goes up with any change of their results."""

RECIPE: dict[str, Any] = {
    "backbone": "mobilenetv2_035", "batch_size": 64, "learning_rate": 4e-3, "weight_decay": 0.05, "warmup": 0.2,
    "label_smoothing": 0.1, "schedule": "cosine", "symmetry": "dihedral", "unfreeze_depth": 0.7,
    "augmentation": "mixture", "augmentation_strength": 0.4, "precision": "fp32",
}  # fmt: skip
"""What all runs share, but for what a line names."""

MIXTURES = {f"mixture {strength:g}": {"augmentation_strength": strength} for strength in (0.2, 0.3, 0.4, 0.7)}

WARPS = {"augmentation": "geometric", "augmentation_strength": 0.3}

LINES: dict[str, dict[str, dict[str, Any]]] = {
    "blocks": {
        "the last 0.7": {},
        "the first 0.7": {"unfreeze_from": "stem"},
        "the middle 0.7": {"unfreeze_from": "middle"},
        "the last 0.3": {"unfreeze_depth": 0.3},
        "the first 0.3": {"unfreeze_depth": 0.3, "unfreeze_from": "stem"},
        "the middle 0.3": {"unfreeze_depth": 0.3, "unfreeze_from": "middle"},
        "all": {"unfreeze_depth": 1.0},
        "the head alone": {"unfreeze_depth": 0.0},
    },
    # All blocks train, at a rate at which none of the four diverges.
    "normalisation": {
        name: {"unfreeze_depth": 1.0, "learning_rate": 1e-3, "normalisation": kind}
        for name, kind in {
            "BatchNorm": "native", "BatchNorm with frozen statistics": "frozen-batch", "GroupNorm": "group",
            "LayerNorm": "layer",
        }.items()
    },
    "families": {
        "off": {"augmentation": "none"},
        "geometric 0.3": WARPS,
        "colour 0.4": {"augmentation": "colour"},
        "randaugment 0.4": {"augmentation": "randaugment"},
        "corruption 0.4": {"augmentation": "corruption"},
        "geometric 0.3 and AugMix 0.4": {**WARPS, "augmix": 0.4},
        **MIXTURES,
    },
    "points": {
        "geometric 0.3": WARPS,
        **{name: MIXTURES[name] for name in ("mixture 0.2", "mixture 0.3", "mixture 0.4")},
        "geometric-colour 0.3": {**WARPS, "augmentation": "geometric-colour"},
    },
}  # fmt: skip
"""Part -> lines; the others of a part are compared with its first."""

FINISHED = {"geometric 0.3": WARPS, "mixture 0.4": MIXTURES["mixture 0.4"]}
"""The lines whose models are finished, too."""

PARTS = (*LINES, "finishing")

DEFAULT_PARTS = ("blocks", "normalisation", "families", "finishing")

WAYS = ("as trained", "0.8 of the tuned weights", "mean of eight views", "adapted to 32 images")
"""What may be done to a trained model; the first is nothing."""

ADAPTED_TO = 32

COLUMNS = {"clean": "clean", "altered": "two alterations", "unseen": "unseen"}

Bools = npt.NDArray[np.bool_]

Predict = Callable[[Iterable[Images]], npt.NDArray[np.int64]]


@dataclass(frozen=True)
class Setting:
    """What all runs of a folder share."""

    images: int
    epochs: int
    size: int
    clean: int
    """Images measured as they are."""
    sample: int
    """Images of these that are altered."""
    data: str
    """Fingerprint of the data set."""
    version: int = VERSION


@dataclass(frozen=True)
class MeasuredSets:
    """The images that all runs are measured on."""

    clean: Part
    altered: Part
    unseen: CorruptedCopy
    spare: Part
    """Images as they are, to adapt to; not measured."""


@dataclass(frozen=True)
class Bench:
    """The images, and the weights to start from; None for random ones."""

    setting: Setting
    train: Part
    sets: MeasuredSets
    classes: int
    weights: Path | None

    def config(self, changes: Mapping[str, Any]) -> TrialConfig:
        """Return the configuration of a line."""
        start = {"weights": str(self.weights)} if self.weights else {"pretrained": False}
        size = {"image_size": self.setting.size, "epochs": self.setting.epochs}
        return TrialConfig.from_dict({**RECIPE, **start, **size, **changes})


def open_bench(data: Path, weights: Path | None, cache: Path, given: argparse.Namespace) -> Bench:
    """Return the bench of the given sizes; of the train part what does not train is measured, after the val part."""
    whole, val = (open_whole(data, image_size=given.size, cache=cache, part=part) for part in ("train", "val"))
    rows = np.random.default_rng(0).permutation(len(whole.part))
    order = np.random.default_rng(1).permutation(len(val.part))
    ends = np.cumsum([given.images, max(0, given.clean - len(val.part)), ADAPTED_TO])
    if ends[-1] > len(rows):
        raise SystemExit(f"{data} has {len(rows)} training images, but {ends[-1]} are asked for: give smaller numbers")
    train, more, spare = (whole.part.subset(found) for found in np.split(rows, ends)[:3])
    measured = _joined(val.part.subset(order[: given.clean]), more)
    sample = val.part.subset(order[: given.sample])
    sets = MeasuredSets(
        clean=measured,
        altered=altered_part(sample, cache, train=16 * len(sample)),
        unseen=corrupted_copy(sample, cache, family=UNSEEN),
        spare=spare,
    )
    setting = Setting(len(train), given.epochs, given.size, len(measured), len(sample), whole.fingerprint)
    return Bench(setting, train, sets, len(whole.classes), weights)


def _joined(one: Part, other: Part) -> Part:
    """Return the images of two parts of one file, each opened by itself."""
    return one.joined(Part(one.images, other.indices, other.labels, other.names, other.digests))


def run_line(bench: Bench, changes: Mapping[str, Any], seed: int, *, finish: bool) -> dict[str, Any]:
    """Train one line under one seed; return its accuracies, and with `finish` those of each way to finish it."""
    started = time.process_time()
    config = bench.config(changes)
    with closing(fit(config, FitData(bench.train, None, bench.classes), Runtime(seed=seed, threads=1))) as epochs:
        for result in epochs:
            tuned = result.weights() if result.last else b""
    built = build_model(config, bench.classes)
    original = {name: tensor.clone() for name, tensor in built.model.state_dict().items()}
    built.model.load_state_dict(unpack(tuned))
    sets = bench.sets
    found: dict[str, Any] = figures(predict_with(built), sets, np.ones(len(sets.unseen), bool))
    if finish:
        found["finishing"] = dict(finished(built, original, sets))
    return {**found, "seconds": round(time.process_time() - started, 1)}


def predict_with(built: BuiltModel) -> Predict:
    """Return a function from batches of images to the labels that the network gives them."""
    predictor = Predictor(built.model, mean=built.mean, std=built.std)
    return lambda batches: predictor.logits(batches).argmax(axis=1)


def figures(predict: Predict, sets: MeasuredSets, rows: Bools) -> dict[str, float]:
    """Return the accuracy on each set; of the unseen corruptions on those `rows` of the copy."""
    right = predict(sets.unseen.batches(256)) == sets.unseen.labels
    return {
        "clean": accuracy(predict, sets.clean),
        "altered": accuracy(predict, sets.altered),
        "unseen": float(right[rows].mean()),
    }


def accuracy(predict: Predict, part: Part) -> float:
    """Return the share of the images of a part that are classified correctly."""
    return float((predict(part.batches(256)) == part.labels).mean())


def finished(
    built: BuiltModel, original: Mapping[str, torch.Tensor], sets: MeasuredSets
) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield what each way to finish a trained network gives, on images that none of them adapts to."""
    tuned = {name: tensor.clone() for name, tensor in built.model.state_dict().items()}
    rest = np.ones(len(sets.unseen), bool)
    for rows in conditions(sets.unseen):
        rest[rows[:ADAPTED_TO]] = False
    yield WAYS[0], figures(predict_with(built), sets, rest)
    built.model.load_state_dict(between(original, tuned, 0.8))
    yield WAYS[1], figures(predict_with(built), sets, rest)
    built.model.load_state_dict(tuned)
    yield WAYS[2], figures(predict_of_views(built), sets, rest)
    yield WAYS[3], adapted_figures(built, sets)


def predict_of_views(built: BuiltModel) -> Predict:
    """Return a function from batches to labels by the mean probabilities of the eight symmetries of each image."""
    predictor, views = Predictor(built.model, mean=built.mean, std=built.std), VIEWS["dihedral"]

    def predict(batches: Iterable[Images]) -> npt.NDArray[np.int64]:
        rows = [
            np.mean([probabilities(predictor.logits([view(batch)])) for view in views], axis=0) for batch in batches
        ]
        return np.concatenate(rows).argmax(axis=1)

    return predict


def adapted_figures(built: BuiltModel, sets: MeasuredSets) -> dict[str, float]:
    """Return the accuracies of a network that is adapted to 32 images of each condition, and measured on its others.

    Two alterations are no one condition, so nothing is measured on them.
    """
    images, labels = sets.unseen.images, sets.unseen.labels
    right: list[Bools] = []
    for rows in conditions(sets.unseen):
        some, others = rows[:ADAPTED_TO], rows[ADAPTED_TO:]
        if len(others):
            right.append(predict_with(adapted(built, images[some]))([images[others]]) == labels[others])
    clean = adapted(built, sets.spare.batch(np.arange(len(sets.spare))))
    return {
        "clean": accuracy(predict_with(clean), sets.clean),
        "unseen": float(np.concatenate(right).mean()),
    }


def adapted(built: BuiltModel, images: Images) -> BuiltModel:
    """Return a copy of the network with statistics adapted to `images` (n, S, S, 3) uint8, as `hpo adapt` does it."""
    network: nn.Module = copy.deepcopy(built.model)
    normalise = Normaliser(built.mean, built.std, torch.device("cpu"), ComputeFormat("fp32"))
    adapt_statistics(network, [normalise(torch.from_numpy(np.ascontiguousarray(images)))], len(images))
    return BuiltModel(network, built.mean, built.std, built.weights, built.features, built.origin)


def conditions(corrupted: CorruptedCopy) -> Iterator[npt.NDArray[np.int64]]:
    """Yield the rows of each kind of corruption at each severity."""
    for kind in range(len(corrupted.kinds)):
        for severity in range(1, 6):
            yield np.flatnonzero((corrupted.corruption == kind) & (corrupted.severity == severity))


class KeptRuns:
    """The runs in a file, each written as soon as it ends."""

    def __init__(self, path: Path, setting: Setting) -> None:
        self._path = path
        stored = json.loads(path.read_text()) if path.is_file() else {"setting": asdict(setting), "runs": {}}
        if stored["setting"] != asdict(setting):
            raise SystemExit(f"{path} has runs of {stored['setting']}, not of {asdict(setting)}: name another folder")
        self._stored = stored

    def get(self, changes: Mapping[str, Any], seed: int) -> dict[str, Any] | None:
        """Return a run; None where it was not made."""
        found: dict[str, Any] | None = self._stored["runs"].get(_key(changes, seed))
        return found

    def keep(self, changes: Mapping[str, Any], seed: int, run: Mapping[str, Any]) -> None:
        """Write a run into the file."""
        self._stored["runs"][_key(changes, seed)] = dict(run)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_file(self._path, json.dumps(self._stored, indent=1))

    def of_seeds(self, changes: Mapping[str, Any], seeds: Iterable[int]) -> dict[int, dict[str, Any]]:
        """Return the runs of a line that were made, by seed."""
        return {seed: run for seed in seeds if (run := self.get(changes, seed)) is not None}

    @property
    def seconds(self) -> float:
        """Processor seconds of all runs."""
        return float(sum(run["seconds"] for run in self._stored["runs"].values()))


def _key(changes: Mapping[str, Any], seed: int) -> str:
    """Return the name of a run: lines of two parts that ask for the same are one run."""
    asked = {name: value for name, value in sorted(changes.items()) if RECIPE.get(name) != value}
    return f"{json.dumps(asked)} seed {seed}"


def lines_of(parts: Sequence[str]) -> list[tuple[str, Mapping[str, Any], bool]]:
    """Return every line of the parts once: name, changes, and whether its model is finished, too."""
    named = [item for part in parts for item in LINES.get(part, {}).items()]
    finish = FINISHED if "finishing" in parts else {}
    lines = {_key(changes, 0): (name, changes) for name, changes in (*finish.items(), *named)}
    finished_keys = {_key(changes, 0) for changes in finish.values()}
    return [(*line, key in finished_keys) for key, line in lines.items()]


def make_runs(bench: Bench, runs: KeptRuns, parts: Sequence[str], seeds: Sequence[int]) -> None:
    """Make the runs that are missing, one seed after the other, so that whatever is made first can be compared."""
    for seed in seeds:
        for name, changes, finish in lines_of(parts):
            known = runs.get(changes, seed)
            if known is not None and ("finishing" in known or not finish):
                continue
            found = run_line(bench, changes, seed, finish=finish)
            runs.keep(changes, seed, found)
            shown = ", ".join(f"{heading} {100 * found[key]:.2f}" for key, heading in COLUMNS.items())
            print(f"seed {seed}, {name}: {shown}; {found['seconds']:.0f} s", flush=True)


def document(runs: KeptRuns, parts: Sequence[str], seeds: Sequence[int], about: str) -> str:
    """Return the tables in Markdown."""
    tables: list[str] = []
    for part in parts:
        if part == "finishing":
            for name, changes in FINISHED.items():
                made = runs.of_seeds(changes, seeds)
                ways = {way: {seed: _way(run, way) for seed, run in made.items()} for way in WAYS}
                tables += [f"## Finishing a model of {name}\n", table(ways)]
        else:
            lines = {name: runs.of_seeds(changes, seeds) for name, changes in LINES[part].items()}
            tables += [f"## {part.capitalize()}\n", table(lines)]
    return to_document("What each choice is worth under shift", tables, [about])


def _way(run: Mapping[str, Any], way: str) -> Mapping[str, float]:
    found: Mapping[str, float] = run.get("finishing", {}).get(way, {})
    return found


def table(lines: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> str:
    """Return a row for each line: mean accuracy in per cent, and the difference from the first line."""
    first = next(iter(lines.values()))
    header = ["", *(cell for heading in COLUMNS.values() for cell in (f"{heading}, %", "difference, points"))]
    rows = [
        [name, *(cell for key in COLUMNS for cell in _cells(made, first, key, own=made is first))]
        for name, made in lines.items()
    ]
    return to_markdown(header, rows)


def _cells(
    made: Mapping[int, Mapping[str, Any]], first: Mapping[int, Mapping[str, Any]], key: str, *, own: bool
) -> tuple[str, str]:
    """Return the mean of a figure, and its paired difference from the first line with the interval."""
    values = {seed: run[key] for seed, run in made.items() if key in run}
    if not values:
        return NOTHING, NOTHING
    mean = f"{100 * fmean(values.values()):.2f}"
    gaps = [100 * (values[seed] - first[seed][key]) for seed in sorted(values) if key in first.get(seed, {})]
    found = None if own else paired(gaps)
    if found is None:
        return mean, ""
    interval = f" ({found.interval[0]:+.2f} to {found.interval[1]:+.2f})" if found.interval else ""
    return mean, f"{found.mean:+.2f}{interval}"


def about_line(setting: Setting, runs: KeptRuns, seeds: Sequence[int]) -> str:
    """Return what the tables were made of, and on what."""
    load = "/".join(f"{one:.1f}" for one in os.getloadavg())
    return (
        f"mobilenetv2_035 at {setting.size} pixels, {setting.images:,} training images, {setting.epochs} epochs, seeds "
        f"{', '.join(map(str, seeds))}; {setting.clean:,} images as they are, {setting.sample:,} of them under two "
        f"alterations in two draws and under each of {len(UNSEEN.kinds)} unseen corruptions. {platform.machine()}, "
        f"{cores()} cores, load {load}, one thread, {runs.seconds / 60:.0f} minutes of processor time; "
        f"{datetime.now(UTC):%Y-%m-%d}."
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Make what is missing, then write and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("shared", type=Path, help="folder with data/ and weights/")
    parser.add_argument("out", type=Path)
    parser.add_argument("--part", action="append", choices=PARTS, help="default: all but points; repeatable")
    parser.add_argument("--images", type=int, default=2000, help="training images")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--clean", type=int, default=4000, help="images measured as they are")
    parser.add_argument("--sample", type=int, default=400, help="images of these that are altered")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cache", type=Path, help="folder for packed images; default: OUT/cache")
    given = parser.parse_args(arguments)
    data = given.shared / "data" / "pbc96_trainval.zip"
    weights = given.shared / "weights" / "mobilenetv2_035.safetensors"
    print(measure(data, weights, given))


def measure(data: Path, weights: Path | None, given: argparse.Namespace) -> str:
    """Make the runs that are missing; write the tables beside them and return them."""
    torch.set_num_threads(1)
    if "finishing" in (given.part or DEFAULT_PARTS) and given.sample < 5 * (ADAPTED_TO + 1):
        raise SystemExit(f"--sample {given.sample} leaves none to measure beside {ADAPTED_TO} of each severity")
    bench = open_bench(data, weights, given.cache or given.out / "cache", given)
    runs, parts = KeptRuns(given.out / "runs.json", bench.setting), given.part or DEFAULT_PARTS
    make_runs(bench, runs, parts, given.seeds)
    text = document(runs, parts, given.seeds, about_line(bench.setting, runs, given.seeds))
    write_file(given.out / "table.md", text)
    return text


if __name__ == "__main__":
    main()
