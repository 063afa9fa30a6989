"""The data doctor on planted faults, beside other tools, and on untouched sets: recall, precision, time, memory, worth.

    python -m benchmarks.doctor [PART ...] --data PBC.zip --junk SIGNS.zip --weights FILE [--seeds 0 1 2] [--work DIR]

`make bench-doctor` runs all parts with the images of ../shared; BENCH_ARGS chooses parts and options. The parts:

    doctor    the data doctor on the planted set of each seed
    rivals    the other tools on the same files, in an environment of their own; their results are kept
    speed     time of the checks on one core and of everything on two, for 12,000 images
    memory    the most resident memory for 100,000 images
    growth    time of the search for copies at 5 to 80 thousand images, with the exponent
    real      what is found in sets where nothing was planted, with contact sheets to look at
    worth     the same short search with and without --clean, measured on clean images
    table     docs-ready markdown of everything that is in DIR

Every part keeps its result as JSON in DIR and `table` reads them, so parts can be run apart and again; what is finished
is not done twice (--fresh PART ... removes it first). Times need a quiet machine: the load is recorded.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.doctor_claims import read_claims, read_rival
from benchmarks.doctor_many import write_many
from benchmarks.doctor_plants import PlantOptions, plant, read_truth, summary, truth_path
from benchmarks.doctor_rivals import METHODS
from benchmarks.doctor_same import SamePicture
from benchmarks.doctor_scores import score
from benchmarks.doctor_table import tables
from benchmarks.doctor_worth import Search, measure_worth
from hpo.device import cores

GROWTH = (5_000, 10_000, 20_000, 40_000, 80_000)
SPEED = 12_000
MEMORY = 100_000
SIDE = 96


@dataclass(frozen=True)
class Bench:
    """What the parts need: data, weights, seeds and the folder of results."""

    data: Path
    junk: Path
    real: tuple[Path, ...]
    weights: Path
    work: Path
    seeds: tuple[int, ...]
    rivals: Path
    hpo: Path
    worth: Search
    methods: tuple[str, ...]
    faults: PlantOptions
    threads: int

    def plant(self, seed: int) -> Path:
        """Return the planted set of a seed, made on the first call."""
        out = self.work / "sets" / f"planted-{seed}.zip"
        if not truth_path(out).exists():
            say(f"planting with seed {seed}: {summary(plant(self.options(seed), out))}")
        return out

    def options(self, seed: int) -> PlantOptions:
        """Return the faults that are planted for a seed."""
        return replace(self.faults, seed=seed)

    def many(self, count: int) -> Path:
        """Return a set of `count` different images, made on the first call."""
        out = self.work / "sets" / f"many-{count}.zip"
        if not out.exists():
            say(f"making {count} different images")
            write_many(self.data, out, count, SIDE)
        return out

    def examine(self, path: Path, out: Path, *, threads: int = 2, only: str = "all") -> dict[str, Any]:
        """Run the data doctor in a process of its own, in a new cache; return what it measured of itself."""
        command = [sys.executable, "-m", "benchmarks.doctor_examined", str(path), str(out)]
        command += ["--weights", str(self.weights), "--only", only, "--cores", str(threads)]
        ended = subprocess.run(command, env=environment(threads), capture_output=True, text=True, check=False)
        if ended.returncode:
            raise SystemExit(f"{' '.join(command)} ended with {ended.returncode}: {ended.stderr[-3000:]}")
        found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
        return found | {"threads": threads}


def environment(threads: int) -> dict[str, str]:
    """Return the environment of a process that may use so many threads."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
    return os.environ | dict.fromkeys(names, str(threads))


def say(line: str) -> None:
    """Print without delay, on stderr: stdout is for the table."""
    print(line, file=sys.stderr, flush=True)


def header() -> dict[str, Any]:
    """Return date, machine, load and command."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "machine": f"{platform.machine()}, {cores()} cores, {platform.system()}, Python {platform.python_version()}",
        "load": round(os.getloadavg()[0], 2),
        "command": f"python -m benchmarks.doctor {' '.join(sys.argv[1:])}".strip(),
    }


def keep(bench: Bench, part: str, found: object) -> None:
    """Write the result of a part."""
    (bench.work / f"{part}.json").write_text(json.dumps({"run": header(), "found": found}, indent=1))


def stored(path: Path) -> dict[str, bytes]:
    """Return the files of a zip."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def run_doctor(bench: Bench) -> None:
    """Run the data doctor on every planted set and score it."""
    found: dict[str, dict[int, Any]] = {}
    for seed in bench.seeds:
        path, out = bench.plant(seed), bench.work / "doctor" / f"planted-{seed}.npz"
        measured = out.with_suffix(".measured.json")
        if not (out.exists() and measured.exists()):
            out.parent.mkdir(parents=True, exist_ok=True)
            measured.write_text(json.dumps(bench.examine(path, out, threads=bench.threads)))
        same = SamePicture(stored(path))
        for name, claims in read_claims(out).items():
            figures = score(read_truth(truth_path(path)), claims, same)
            took = json.loads(measured.read_text()) if name == "hpo" else {}
            found.setdefault(name, {})[seed] = figures | took
        say(f"doctor, seed {seed}: done")
    keep(bench, "doctor", found)


def run_rivals(bench: Bench) -> None:
    """Run the other tools on every planted set and score them; the embeddings are those of the doctor, if it ran."""
    found: dict[str, dict[int, Any]] = {}
    for seed in bench.seeds:
        path = bench.plant(seed)
        folder, out = bench.work / "folders" / path.stem, bench.work / "rivals" / path.stem
        if not folder.exists():
            with zipfile.ZipFile(path) as archive:
                archive.extractall(folder)
        out.mkdir(parents=True, exist_ok=True)
        doctors = bench.work / "doctor" / f"{path.stem}.embeddings.npy"
        if doctors.exists() and not (out / "embeddings.npy").exists():
            shutil.copy(doctors, out / "embeddings.npy")
        command = [str(bench.rivals), "-m", "benchmarks.doctor_rivals", str(folder), str(out)]
        command += ["--weights", str(bench.weights), "--only", *bench.methods]
        with (out / "log.txt").open("w") as log:
            subprocess.run(command, env=environment(bench.threads), stdout=log, stderr=log, check=True)
        same, truth = SamePicture(stored(path)), read_truth(truth_path(path))
        for name in bench.methods:
            found.setdefault(name, {})[seed] = score(truth, read_rival(out / f"{name}.npz"), same)
        say(f"rivals, seed {seed}: done")
    keep(bench, "rivals", found)


def run_speed(bench: Bench) -> None:
    """Measure the checks on one thread and everything on two, for 12,000 images."""
    path, out = bench.many(SPEED), bench.work / "speed.npz"
    keep(
        bench,
        "speed",
        {
            "checks": bench.examine(path, out, threads=1, only="checks"),
            "all": bench.examine(path, out, threads=2),
        },
    )


def run_memory(bench: Bench) -> None:
    """Measure the resident memory of everything for 100,000 images."""
    keep(bench, "memory", bench.examine(bench.many(MEMORY), bench.work / "memory.npz", threads=2))


def run_growth(bench: Bench) -> None:
    """Measure the search for copies at growing sizes, among the images of the part memory."""
    command = [sys.executable, "-m", "benchmarks.doctor_growth", str(bench.many(MEMORY)), *map(str, GROWTH)]
    ended = subprocess.run(command, env=environment(1), stdout=subprocess.PIPE, text=True, check=True)
    keep(bench, "growth", json.loads(ended.stdout.splitlines()[-1]))


def run_real(bench: Bench) -> None:
    """Count the findings in sets where nothing was planted, and draw contact sheets of them."""
    from benchmarks.doctor_sheets import draw_sheets

    found = {}
    for path in bench.real:
        out = bench.work / "real" / f"{path.stem}.npz"
        out.parent.mkdir(parents=True, exist_ok=True)
        measured = bench.examine(path, out, threads=bench.threads)
        sheets = draw_sheets(out.with_suffix(".csv"), path, bench.work / "real")
        found[path.name] = measured | {"sheets": [str(sheet) for sheet in sheets]}
        say(f"real, {path.name}: {measured['counts']}")
    keep(bench, "real", found)


def run_worth(bench: Bench) -> None:
    """Run the short searches."""
    plants = [bench.options(seed) for seed in bench.seeds]
    keep(bench, "worth", measure_worth(plants, bench.worth, bench.work / "worth"))


def run_table(bench: Bench) -> None:
    """Print the tables and write them to DIR/doctor.md."""
    parts = {path.stem: json.loads(path.read_text()) for path in bench.work.glob("*.json")}
    text = "\n".join(tables(parts))
    (bench.work / "doctor.md").write_text(text + "\n")
    print(text)


PARTS: dict[str, Callable[[Bench], None]] = {
    "doctor": run_doctor,
    "rivals": run_rivals,
    "speed": run_speed,
    "memory": run_memory,
    "growth": run_growth,
    "real": run_real,
    "worth": run_worth,
    "table": run_table,
}
KEPT = {"doctor": "doctor", "rivals": "rivals", "worth": "worth", "real": "real", "sets": "sets"}
"""Part -> the folder with what it does not do twice."""


def parse() -> tuple[list[str], Bench]:
    """Parse the command line, and remove what is to be done anew."""
    shared = Path("../shared/data")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help="all of them by default")
    parser.add_argument("--data", type=Path, default=shared / "pbc96_trainval.zip")
    parser.add_argument("--junk", type=Path, default=shared / "signdigits100.zip")
    parser.add_argument("--real", type=Path, nargs="*", help="sets for the part real")
    parser.add_argument("--weights", type=Path, default=Path("../shared/weights/mobilenetv2_035.safetensors"))
    parser.add_argument("--work", type=Path, default=Path("build/doctor"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS), help="of the rivals")
    parser.add_argument("--rivals-python", type=Path, default=Path(".venv-rivals/bin/python"))
    parser.add_argument("--fresh", nargs="*", choices=list(KEPT), default=[], help="forget what these parts kept")
    parser.add_argument("--threads", type=int, default=cores(), help="of parts that measure no time; 1 if it is busy")
    parser.add_argument("--trials", type=int, default=3, help="of each search of the part worth")
    parser.add_argument("--epochs", type=int, default=3, help="of each trial of the part worth")
    parser.add_argument("--share", type=float, default=0.25, help="of the images, for the part worth")
    parser.add_argument(
        "--plant", nargs="*", default=[], metavar="NAME=JSON", help="other faults: copies=100 grey=true"
    )
    given = parser.parse_args()
    unknown = set(given.parts) - set(PARTS)
    if unknown:
        parser.error(f"no part {', '.join(sorted(unknown))}; the parts are {', '.join(PARTS)}")
    given.work.mkdir(parents=True, exist_ok=True)
    for part in given.fresh:
        shutil.rmtree(given.work / KEPT[part], ignore_errors=True)
    program = Path(sys.executable).with_name("hpo")
    real = given.real or [given.data, given.junk, shared / "pbc96_small800.npz"]
    return given.parts or list(PARTS), Bench(
        data=given.data,
        junk=given.junk,
        real=tuple(real),
        weights=given.weights,
        work=given.work,
        seeds=tuple(given.seeds),
        rivals=given.rivals_python,
        hpo=program,
        worth=Search(program, given.weights, given.trials, given.share, epochs=given.epochs),
        methods=tuple(given.methods),
        faults=faults(given.data, given.junk, given.plant),
        threads=given.threads,
    )


def faults(data: Path, junk: Path, changes: list[str]) -> PlantOptions:
    """Return what is planted: the defaults of `PlantOptions` with the changes NAME=JSON."""
    names = {field.name for field in fields(PlantOptions)}
    values: dict[str, Any] = {}
    for change in changes:
        name, _, text = change.partition("=")
        if name not in names:
            raise SystemExit(f"--plant {change}: the names are {', '.join(sorted(names))}")
        value = json.loads(text)
        values[name] = tuple(value) if isinstance(value, list) else value
    return PlantOptions(data, junk, **values)


def main() -> None:
    """Run the parts in their order."""
    chosen, bench = parse()
    for part, run in PARTS.items():
        if part in chosen:
            began = time.monotonic()
            run(bench)
            say(f"{part}: {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
