"""What cleaning is worth: the same short search on a planted set, with and without `--clean`.

All arms train the same number of trials to their last epoch, without a pruner, so that a busy machine changes the
seconds and not the accuracies; the first trials are the space's known-good points, the same in all arms. An epoch of
the cleaned set is shorter by the images that are left out, so the third arm takes as many steps as the first, to the
nearest epoch. Half of the
images in which nothing was planted measure the trials, and the others the best one; those are a data set of their own
here. To be short, a share of the train images is used, with as large a share of the faults.
"""

from __future__ import annotations

import json
import subprocess
import time
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.doctor_pictures import read_images
from benchmarks.doctor_plants import PlantOptions, plant, truth_path, write

AS_PLANTED, CLEANED, AS_MANY_STEPS = "as planted", "--clean", "--clean, as many steps"

ARMS: dict[str, tuple[str, ...]] = {AS_PLANTED: (), CLEANED: ("--clean",), AS_MANY_STEPS: ("--clean",)}


@dataclass(frozen=True)
class Search:
    """The short search of one arm."""

    hpo: Path
    weights: Path
    trials: int = 3
    share: float = 0.25
    """Of the images and of the faults in them."""
    space: str = "quick"
    epochs: int = 3
    backbone: str = "mobilenetv2_035"


def measure_worth(plants: list[PlantOptions], search: Search, work: Path) -> list[dict[str, Any]]:
    """Run both arms for every plant; keep finished arms in `work`, and return a row for each arm."""
    some = [shrunk(options, search.share) for options in plants]
    return [run_arm(options, arm, search, work / f"seed-{options.seed}") for options in some for arm in ARMS]


def shrunk(options: PlantOptions, share: float) -> PlantOptions:
    """Return the options for a share of the images, with as large a share of the faults."""
    images = options.images or len(read_images(options.data))
    return replace(
        options,
        images=round(share * images),
        clusters=tuple(round(share * count) for count in options.clusters),
        scattered=round(share * options.scattered),
        copies=round(share * options.copies),
    )


def run_arm(options: PlantOptions, arm: str, search: Search, folder: Path) -> dict[str, Any]:
    """Search and measure once; return what an earlier run kept if there is one."""
    kept = folder / f"{arm.strip('-').replace(', ', '-').replace(' ', '-')}.json"
    if kept.exists():
        found: dict[str, Any] = json.loads(kept.read_text())
        return found
    sets = clean_sets(options, folder)
    if arm == AS_MANY_STEPS:
        first, cleaned = (run_arm(options, other, search, folder) for other in (AS_PLANTED, CLEANED))
        search = replace(search, epochs=round(search.epochs * first["train"] / cleaned["train"]))
    home, study = folder / f"home-{kept.stem}", f"worth-{options.seed}-{kept.stem}"
    began = time.monotonic()
    said = hpo(search, "run", sets["train"], "--study", study, "--home", home, *ARMS[arm], *settings(options, search))
    seconds = time.monotonic() - began
    status = json.loads(hpo(search, "status", "--study", study, "--home", home, "--json"))
    bundle = folder / f"bundle-{kept.stem}"
    hpo(search, "export-best", "--study", study, "--home", home, "--out", bundle, "--force")
    row = {"seed": options.seed, "arm": arm, "seconds": round(seconds, 1), "trials": status["trials"]}
    manifest = json.loads((bundle / "config.json").read_text())
    row |= {"epochs": search.epochs, "train": manifest["data"]["counts"]["train"]}
    row["val"] = status["best"]["value"]
    answer = json.loads(hpo(search, "evaluate", bundle, "--data", sets["test"], "--home", home, "--json"))
    row["test"] = answer["accuracy"]
    row["said"] = [line for line in said.splitlines() if "clean" in line or "left out" in line][:6]
    kept.write_text(json.dumps(row, indent=1))
    return row


def clean_sets(options: PlantOptions, folder: Path) -> dict[str, Path]:
    """Write the planted set with a clean val part, and the clean test images as a set of their own."""
    sets = {name: folder / f"{name}.zip" for name in ("train", "test")}
    if not all(path.exists() for path in sets.values()):
        folder.mkdir(parents=True, exist_ok=True)
        rows = plant(replace(options, parts=True), sets["train"])
        truth_path(sets["train"]).unlink()
        with zipfile.ZipFile(sets["train"]) as archive:
            planted = {row.file: archive.read(row.file) for row in rows}
        clean = sorted(name for name in planted if not name.startswith("train/"))
        test = set(clean[1::2])
        # Half of all clean images measure the trials: with a tenth of the train part noise would choose.
        write({as_val(name): data for name, data in planted.items() if name not in test}, sets["train"])
        write({name.partition("/")[2]: planted[name] for name in test}, sets["test"])
    return sets


def as_val(name: str) -> str:
    """Return a name of the train part as it is, and every other one below val/."""
    return name if name.startswith("train/") else f"val/{name.partition('/')[2]}"


def settings(options: PlantOptions, search: Search) -> list[str]:
    """Return the options that both arms share."""
    return [
        *("--space", search.space, "--backbone", search.backbone, "--weights", str(search.weights)),
        *("--set", "image_size=96", "--set", f"epochs={search.epochs}", "--seed", str(options.seed)),
        *("--trials", str(search.trials), "--pruner", "none"),
    ]


def hpo(search: Search, *arguments: str | Path) -> str:
    """Run a command of hpo and return what it prints."""
    command = [str(search.hpo), *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {ended.returncode}: {ended.stderr[-2000:]}")
    return ended.stdout


def worth_table(rows: list[dict[str, Any]]) -> list[str]:
    """Return markdown: accuracy by seed and arm, and the mean of the differences."""
    lines = [
        "| seed | arm | train images | epochs | trials finished | seconds | clean val | clean test |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        done = row["trials"]["finished"]
        lines.append(
            f"| {row['seed']} | {row['arm']} | {row['train']:,} | {row['epochs']} | {done} | {row['seconds']:.0f} "
            f"| {row['val']:.4f} | {row['test']:.4f} |"
        )
    value = {(row["seed"], row["arm"]): row for row in rows}
    for arm in (CLEANED, AS_MANY_STEPS):
        for part in ("val", "test"):
            gains = [row[part] - value[row["seed"], AS_PLANTED][part] for row in rows if row["arm"] == arm]
            if gains:
                each = ", ".join(f"{gain:+.4f}" for gain in gains)
                lines.append(f"\nGain of `{arm}` on the clean {part}: {mean(gains):+.4f} ({each})")
    return lines
