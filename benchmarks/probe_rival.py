"""A frozen probe beside the tuned model, for every data set at hand: a short search each, measured on the test part.

    python -m benchmarks.probe_rival ../shared --out probe_rival

Runs `hpo run` with a probe and a few trials of `quick`, one worker and fp32, so the results do not depend on what else
the machine does (the seconds do). Then trial 0, the probe, and the best trained trial are exported and measured on the
locked test part. Prints a Markdown table. What is measured lies in OUT, a JSON file for each row: a later call goes on
with the rows that are missing. `benchmarks.probe_stopping` reads the same files.
"""

from __future__ import annotations

import argparse
import base64
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpo.cli.connect import connected_study
from hpo.files import write_file
from hpo.search.status import best_first
from hpo.search.trial_record import TrialRecord, is_probe, outcomes_of

COLUMNS = (
    "data", "backbone", "trained on", "probe, s", "tuned, s", "probe, val", "tuned, val", "gain ± s.e., val",
    "probe, test", "tuned, test", "verdict",
)  # fmt: skip


@dataclass(frozen=True)
class Rival:
    """One row: a data set, a backbone, and the length of its search."""

    data: str
    symmetry: str
    backbone: str = "mobilenetv2_035"
    trials: int = 10
    epochs: int = 6
    val_fraction: float | None = None
    """Share for validation where the data set brings no val part: large, so that a gain can be told from noise."""

    @property
    def name(self) -> str:
        """The name of its study and file."""
        return f"{Path(self.data).stem}-{self.backbone}"


ROWS = (
    Rival("pbc96_small800.npz", "dihedral", val_fraction=0.3),
    Rival("pbc96_small800.npz", "dihedral", "mobilenetv2_100", trials=8, val_fraction=0.3),
    Rival("signdigits100.zip", "none", val_fraction=0.3),
    Rival("pbc96_trainval.zip", "dihedral", trials=6, epochs=4),
)
"""About 15 minutes on two quiet cores, two thirds of them for the last."""


def main() -> None:
    """Measure the rows that are missing, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("shared", type=Path, help="folder with data/ and weights/")
    parser.add_argument("--out", type=Path, default=Path("probe_rival"), help="folder of the results")
    parser.add_argument("--only", help="measure the rows whose name contains this alone")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for row in ROWS:
        file = options.out / f"{row.name}.json"
        if not file.exists() and (options.only or "") in row.name:
            write_file(file, json.dumps(measured(row, options.shared.resolve()), indent=1))
    print(f"| {' | '.join(COLUMNS)} |\n|---|---|{'---:|' * (len(COLUMNS) - 3)}---|")
    for row in ROWS:
        if (file := options.out / f"{row.name}.json").exists():
            print(f"| {' | '.join(cells(json.loads(file.read_text())))} |")


def measured(row: Rival, shared: Path) -> dict[str, Any]:
    """Search, measure both models on the test part, and return all that was found."""
    began = time.monotonic()
    weights = shared / "weights" / f"{row.backbone}.safetensors"
    data = shared / "data" / row.data
    split = [] if row.val_fraction is None else ["--val-fraction", str(row.val_fraction)]
    with tempfile.TemporaryDirectory(prefix="hpo-rival-") as folder:
        home = Path(folder)
        hpo(
            home, "run", str(data), "--study", row.name, "--space", "quick", "--weights", str(weights), "--backbone",
            row.backbone, "--trials", str(row.trials), "--workers", "1", "--keep", "100", "--seed", "0",
            *split,
            *(f"--set={value}" for value in (f"symmetry={row.symmetry}", f"epochs={row.epochs}", "precision=fp32")),
        )  # fmt: skip
        found = status_of(home, row)
        models = {"probe": found["probe"]["trial"], "tuned": found["probe"]["tuned"]}
        tested = {kind: tested_model(home, row, data, number) for kind, number in models.items()}
        found["test"] = tested
    return {"row": asdict(row), "minutes": (time.monotonic() - began) / 60, **found}


def hpo(home: Path, command: str, *words: str) -> str:
    """Run a command and return what it printed; its progress goes to stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "hpo", command, *words, "--home", str(home)], check=True, stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    return done.stdout


def status_of(home: Path, row: Rival) -> dict[str, Any]:
    """Return the line to beat, the counts, and of each trained trial what `probe_stopping` needs."""
    status = json.loads(hpo(home, "status", "--study", row.name, "--json"))
    with connected_study(None, home, row.name) as (_, study):
        trials = study.get_trials(deepcopy=False)
        probe = next(trial for trial in best_first(trials) if is_probe(trial))
        trained = [trial for trial in trials if not is_probe(trial) and outcomes_of(trial)]
        return {
            "probe": status["probe"],
            "trials": status["trials"],
            "images": len(outcomes_of(probe)[0]),
            "train": TrialRecord.of(probe).facts["probe"]["images"],
            "seconds": sum(TrialRecord.of(trial).seconds or 0.0 for trial in trials if not is_probe(trial)),
            "right": {str(trial.number): packed(outcomes_of(trial)[0]) for trial in (probe, *trained)},
            "complete": [trial.number for trial in best_first(trials)],
        }


def packed(outcomes: Any) -> str:
    """Return which images were classified rightly, as base64 of bits."""
    return base64.b64encode(np.packbits(outcomes.labels == outcomes.predicted).tobytes()).decode("ascii")


def tested_model(home: Path, row: Rival, data: Path, trial: int | None) -> dict[str, Any] | None:
    """Export a trial, and return its accuracy on the test part with the interval; None without a trial."""
    if trial is None:
        return None
    bundle = home / f"bundle-{trial}"
    hpo(home, "export-best", "--study", row.name, "--trial", str(trial), "--out", str(bundle), "--no-finish")
    report = json.loads(hpo(home, "evaluate", str(bundle), "--data", str(data), "--split", "test", "--json"))
    return {key: report[key] for key in ("accuracy", "interval", "n")}


def cells(found: dict[str, Any]) -> Iterator[str]:
    """Yield the cells of a row."""
    row, line, test = found["row"], found["probe"], found["test"]
    trained = line["tuned"] is not None
    yield row["data"]
    yield row["backbone"]
    yield f"{found['train']:,}"
    yield f"{line['seconds']:.0f}"
    yield f"{found['seconds']:.0f}"
    yield f"{100 * line['value']:.2f}"
    yield f"{100 * (line['value'] + line['gain']):.2f}" if trained else ""
    error = "?" if line["error"] is None else f"{100 * line['error']:.2f}"
    yield f"{100 * line['gain']:+.2f} ± {error}" if trained else ""
    yield from (interval(test[kind]) for kind in ("probe", "tuned"))
    yield {True: "tuning beats the probe", False: "not by more than noise", None: "not known"}[line["beaten"]]


def interval(test: dict[str, Any] | None) -> str:
    """Return `95.12 (93.1–96.5)`, of n images; empty without a model."""
    if test is None:
        return ""
    low, high = (100 * end for end in test["interval"])
    return f"{100 * test['accuracy']:.2f} ({low:.1f}–{high:.1f})"


if __name__ == "__main__":
    main()
