from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from click.testing import CliRunner, Result

from hpo.cli import main
from hpo.data.synthetic import write_cells
from search_spaces import SearchSpace
from storage import Database, Limits, StudySpec, create_study

TINY = (
    "--backbone", "mobilenetv2_035", "--set", "pretrained=false", "--set", "image_size=32", "--set", "epochs=2",
    "--set", "batch_size=16", "--set", "precision=fp32",
)  # fmt: skip
"""A search that takes seconds."""


@pytest.fixture(scope="session")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of 120 synthetic cells of 32 pixels."""
    folder = tmp_path_factory.mktemp("cells") / "cells"
    write_cells(folder, 120, size=32, seed=0)
    return folder


class Command:
    """`hpo` as a process of its own, with a database and a home of its own."""

    def __init__(self, url: str, home: Path) -> None:
        self.home = home
        clean = {key: value for key, value in os.environ.items() if not key.startswith("HPO_")}
        self.environment = {**clean, "HPO_STORAGE": url, "HPO_HOME": str(home), "PYTHONUNBUFFERED": "1"}

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "hpo", *arguments], env=self.environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, cwd=self.home, **options,
        )  # fmt: skip

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        with self.start(*arguments) as process:
            out, err = process.communicate(timeout=240)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def status(self, study: str) -> dict[str, Any]:
        printed = self("status", "--study", study, "--json")
        assert printed.returncode == 0, printed.stderr
        document = json.loads(printed.stdout)
        assert isinstance(document, dict)
        return document


@pytest.fixture
def command(database: Database, tmp_path: Path) -> Command:
    return Command(database.url.render_as_string(hide_password=False), tmp_path)


@pytest.fixture
def here(command: Command, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Return `hpo` inside this process, with the database and the home of `command`."""
    for key in [key for key in os.environ if key.startswith("HPO_")]:
        monkeypatch.delenv(key)
    for key in ("HPO_STORAGE", "HPO_HOME"):
        monkeypatch.setenv(key, command.environment[key])
    monkeypatch.chdir(command.home)

    def call(*arguments: str) -> Result:
        return CliRunner().invoke(main, list(arguments))

    return call


@pytest.fixture
def bare_study(database: Database) -> optuna.Study:
    """Return a study `bare` of 10 trials, made from no data: to claim and finish trials of by hand."""
    database.initialise()
    rate = {"type": "float", "low": 1e-3, "high": 1e-2}
    space = SearchSpace.from_dict(
        {"name": "bare", "summary": "", "fixed": {}, "dimensions": {"learning_rate": rate}, "points": []}
    )
    data = {
        "classes": ["a", "b"],
        "split": "stratified 80/10/10, seed 0",
        "seed": 0,
        "val_fraction": 0.1,
        "test_fraction": 0.1,
        "max_unreadable": 0.05,
    }
    spec = StudySpec(
        space=space.to_dict(), space_fingerprint=space.fingerprint, data=data, data_fingerprint="0", metric="accuracy",
        seed=0, weights_digest=None, sampler="random", pruner="none",
    )  # fmt: skip
    return create_study(database, "bare", spec, limits=Limits(trials=10))


@pytest.fixture
def refused(command: Command, monkeypatch: pytest.MonkeyPatch) -> Callable[[Sequence[str]], str]:
    """Run `hpo` inside this process and return the one line of its error; no traceback, exit code 2."""
    for key in [key for key in os.environ if key.startswith("HPO_")]:
        monkeypatch.delenv(key)
    for key in ("HPO_STORAGE", "HPO_HOME"):
        monkeypatch.setenv(key, command.environment[key])
    monkeypatch.chdir(command.home)

    def call(arguments: Sequence[str]) -> str:
        result = CliRunner().invoke(main, list(arguments))
        assert result.exit_code == 2, (result.exit_code, result.output, result.exception)
        lines = [line for line in result.stderr.splitlines() if line.startswith("hpo: ")]
        assert len(lines) == 1, result.stderr
        assert "Traceback" not in result.stderr
        return lines[0]

    return call
