"""The short form of `make chaos`, and the enumerated kills, each run as a command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.postgres, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]


def _run(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow(70)
@pytest.mark.parametrize("store", ["folder", "s3"])
def test_a_small_campaign_with_every_kind_of_fault_loses_nothing(tmp_path: Path, store: str) -> None:
    file = tmp_path / "table.json"
    size = ("--workers", "4", "--trials", "16", "--epochs", "6", "--faults", "30", "--lease", "2", "--seed", "7")
    done = _run("tests.chaos", *size, "--isolate", "2", "--store", store, "--json", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    table: dict[str, Any] = json.loads(file.read_text())
    assert not any(table["counts"].values())
    assert table["faults_struck"] >= 27
    assert table["trials_taken_up_in_processes"] > 0
    assert table["epochs_redone"]["most"] <= 1


@pytest.mark.slow(80)
def test_nothing_is_lost_at_any_statement_at_which_a_worker_dies() -> None:
    done = _run("tests.chaos.statement_kills")
    assert done.returncode == 0, done.stdout + done.stderr
    findings = [json.loads(line) for line in done.stdout.splitlines()]
    assert [finding["case"] for finding in findings] == [
        "claim-new", "claim-waiting", "claim-expired", "claim-replicate", "train", "release",
    ]  # fmt: skip
    # Each case has at least one statement and one COMMIT.
    assert all(finding["moments"] >= 3 and not finding["broken"] for finding in findings), findings
