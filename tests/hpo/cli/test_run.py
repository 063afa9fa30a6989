"""The main job as a user starts it: real processes, a real PostgreSQL, the real engine on tiny images."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.hpo.cli.conftest import TINY, Command

pytestmark = pytest.mark.postgres


def test_from_images_to_predictions(command: Command, cells: Path, tmp_path: Path) -> None:
    ran = command(
        "run", str(cells), "--study", "e2e", "--space", "quick", *TINY, "--trials", "4", "--workers", "2",
        "--threads", "1",
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "next: hpo export-best --study e2e" in ran.stdout
    status = command.status("e2e")
    assert status["trials"]["finished"] == status["trials"]["asked"] == 4, "the cap is exact with two workers"
    assert status["best"]["value"] > 0

    best, final, out = str(tmp_path / "best"), str(tmp_path / "final"), tmp_path / "predictions.json"
    steps = [
        ("export-best", "--study", "e2e", "--out", best),
        ("retrain", best, "--data", str(cells), "--out", final),
        ("evaluate", final, "--data", str(cells), "--split", "test", "--json"),
        ("predict", final, str(cells), "--out", str(out)),
    ]
    results = [command(*step) for step in steps]
    assert [r.returncode for r in results] == [0] * 4, [r.stderr for r in results]
    report = json.loads(results[2].stdout)
    assert {"accuracy", "n", "balanced_accuracy", "macro_f1", "interval", "classes", "confusion"} <= set(report)
    assert report["n"] == sum(map(sum, report["confusion"]))
    assert len(json.loads(out.read_text())) == 120


def test_ctrl_c_puts_the_trial_back_and_the_same_command_goes_on(command: Command, cells: Path) -> None:
    arguments = (
        "run", str(cells), "--study", "stopped", "--space", "quick", *TINY, "--trials", "6",
        "--workers", "2", "--threads", "1", "--pruner", "none",
    )  # fmt: skip
    with command.start(*arguments) as process:
        assert process.stdout is not None
        for line in process.stdout:  # until the first trial is finished
            if line.startswith("trial "):
                break
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "the same command goes on from here" in err
    stopped = command.status("stopped")["trials"]
    assert stopped["running"] == 0
    assert stopped["failed"] == 0
    assert 1 <= stopped["finished"] < 6

    again = command(*arguments)
    assert again.returncode == 0, again.stderr
    after = command.status("stopped")["trials"]
    assert (after["asked"], after["complete"], after["running"], after["failed"]) == (6, 6, 0, 0)
