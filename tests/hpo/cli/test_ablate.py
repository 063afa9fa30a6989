"""`hpo ablate` as a user gives it: stopped on the way, gone on with, told in tables."""

from __future__ import annotations

import csv
import io
import json
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from click.testing import Result

from hpo.data.synthetic import write_cells
from hpo.search.trial_record import stored_command
from storage import Database, open_study, study_names
from tests.hpo.cli.conftest import Command

pytestmark = pytest.mark.postgres

TINY = """
fixed: {backbone: mobilenetv2_035, pretrained: false, image_size: 32, epochs: 2, batch_size: 16, precision: fp32,
        symmetry: dihedral, augmentation: flips, label_smoothing: 0.1, weight_decay: 0.0, learning_rate: 3e-3,
        schedule: constant}
"""
WORKER = ("--workers", "1", "--threads", "1", "--device", "cpu")


def bundled(here: Callable[..., Result], home: Path, cells: Path, preset: str) -> str:
    """Return the bundle of a preset that was trained by `hpo compare`."""
    made = here(
        "compare", preset, "--data", str(cells), *WORKER, "--set", "image_size=32", "--no-test", "--out", "made"
    )
    assert made.exit_code == 0, made.output
    return str(json.loads((home / "made/results.json").read_text())["models"][0]["folders"][0])


@pytest.mark.slow(40)
def test_an_ablation_is_stopped_resumed_and_reported(
    here: Callable[..., Result], command: Command, database: Database, cells: Path
) -> None:
    (command.home / "tiny.yaml").write_text(TINY)
    bundle = bundled(here, command.home, cells, "tiny.yaml")
    arguments = (
        "ablate", bundle, "--data", str(cells), *WORKER, "--seeds", "2", "--name", "parts", "--pairs", "1",
        "--parts", "label-smoothing,augmentation", "--corrupted", "--out", "out",
    )  # fmt: skip
    with command.start(*arguments) as process:
        assert process.stdout is not None
        for line in process.stdout:  # until the first run is finished
            if line.startswith("trial 0 (everything, seed 0)"):
                break
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "the same command goes on from here" in err
    assert not (command.home / "out").exists()

    ended = here(*arguments)
    assert ended.exit_code == 0, ended.output
    runs = open_study(database, "parts").get_trials(deepcopy=False)
    assert [trial.params["run"] for trial in runs] == [
        f"{name}, seed {seed}"
        for seed in range(2)
        for name in ("everything", "without label-smoothing", "without augmentation")
    ]
    assert len({trial.user_attrs["seed"] for trial in runs}) == 2, "one seed of training for each of the ablation"
    assert len(open_study(database, "parts-pairs").get_trials(deepcopy=False)) == 2
    assert stored_command(open_study(database, "parts")).startswith(f"hpo ablate {bundle} --data ")
    results = json.loads((command.home / "out/results.json").read_text())
    clean, corrupted = results["outcomes"]
    values = {trial.params["run"]: trial.value for trial in runs}
    for part in clean["parts"]:
        (name,) = part["parts"]
        lost = [values[f"everything, seed {s}"] - values[f"without {name}, seed {s}"] for s in range(2)]
        assert part["contribution"]["values"] == pytest.approx(lost)
    assert clean["pairs"][0]["parts"] == ["label-smoothing", "augmentation"]
    assert corrupted["metric"] == "accuracy on the corrupted copy"
    lines = list(csv.DictReader(io.StringIO((command.home / "out/table.csv").read_text())))
    assert len(lines) == 6

    before = (command.home / "out/table.csv").read_bytes()
    assert here(*arguments).exit_code == 0
    assert (command.home / "out/table.csv").read_bytes() == before, "nothing is trained or measured again"


@pytest.mark.slow
def test_invalid_ablations_are_refused(
    here: Callable[..., Result], refused: Callable[[Sequence[str]], str], command: Command, database: Database,
    cells: Path, tmp_path: Path,
) -> None:  # fmt: skip
    baseline = bundled(here, command.home, cells, "majority-class")
    other = tmp_path / "other"
    write_cells(other, 60, size=32, seed=1)
    before = study_names(database)
    (command.home / "file").touch()
    for arguments, reason in [
        ((baseline, "--data", str(cells), "--out", "file"), "--out file: file is a file; name a folder"),
        ((baseline, "--data", str(cells), "--keep", "1"), "no such option"),
        ((baseline, "--data", str(cells)), "is a baseline (majority-class)"),
        (("nowhere", "--data", str(cells)), "nowhere: no such folder"),
        ((baseline, "--data", "nowhere"), "nowhere: no such file or folder"),
    ]:
        assert reason in refused(["ablate", "--out", "out", *arguments])
    assert study_names(database) == before
