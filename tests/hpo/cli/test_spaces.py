"""`hpo spaces` shows what is open, what is fixed and which recipe it reproduces, on a terminal of 100 columns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from hpo.cli import main

PHASED = """
summary: head first, then deeper
seed: "002"
fixed: {optimiser: adamw, phase1.epochs: 5, phase1.unfreeze_depth: 0, phase2.epochs: 20}
dimensions:
  phase2.optimiser: {type: choice, choices: [adamw, lion]}
  phase2.weight_decay:
    - {type: float, low: 1e-3, high: 0.3, log: true, when: {phase2.optimiser: adamw}}
    - {type: float, low: 1e-2, high: 1.0, log: true, when: {phase2.optimiser: lion}}
"""


@pytest.fixture
def phased(tmp_path: Path) -> str:
    path = tmp_path / "phased.yaml"
    path.write_text(PHASED)
    return str(path)


def printed(*arguments: str) -> list[str]:
    result = CliRunner().invoke(main, ["spaces", *arguments], env={"COLUMNS": "100"})
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert all(len(line) <= 100 for line in lines)
    return [" ".join(line.split()) for line in lines]


def test_the_list_has_a_row_for_each_space() -> None:
    lines = printed()
    assert lines[0] == "space recipe open what it is"
    assert any(line.startswith("quick 8 6 epochs at 96 px") for line in lines), "of no published recipe"


def test_a_space_of_a_published_recipe_says_so_in_one_line(phased: str) -> None:
    assert printed(phased)[:2] == [
        "phased head first, then deeper",
        "reproduces published recipe 002: see docs/seeds.md",
    ]
    assert not any("recipe" in line for line in printed("quick"))


def test_phases_are_shown_one_by_one_each_with_its_share(phased: str) -> None:
    lines = printed(phased)
    first, second = (lines.index(next(line for line in lines if line.startswith(f"phase {n}:"))) for n in (1, 2))
    assert lines[first].startswith("phase 1: 5 of 25 epochs")
    assert lines[second].startswith("phase 2: 20 of 25 epochs")
    of_first = [line.split()[:3] for line in lines[first + 1 : second] if line.startswith("phase")]
    assert of_first == [["phase1.epochs", "fixed", "5"], ["phase1.unfreeze_depth", "fixed", "0.0"]]
    assert any(line.startswith("phase2.weight_decay open 0.001 to 0.3, log phase2.optimiser is") for line in lines)
    assert sum("weight decay" in line for line in lines) == 1, "what a field is stands beside its first variant"
    assert any(line.startswith("epochs 25") for line in lines), "of the run, beside what else is fixed"


def test_phases_whose_epochs_are_open_have_no_share(tmp_path: Path) -> None:
    path = tmp_path / "open.yaml"
    path.write_text("dimensions: {phase1.epochs: {type: int, low: 1, high: 3}}")
    assert any(line.startswith("phase 1 value or range") for line in printed(str(path)))


def test_as_json_phases_have_their_flat_names(phased: str) -> None:
    result = CliRunner().invoke(main, ["spaces", phased, "--json"])
    (space,) = json.loads(result.output)
    assert space["seed"] == "002"
    assert space["fixed"]["phase1.epochs"] == 5
    assert space["open"]["phase2.weight_decay"] == [
        "0.001 to 0.3, log, when phase2.optimiser is adamw",
        "0.01 to 1, log, when phase2.optimiser is lion",
    ]


def test_a_field_that_no_phase_has_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "typo.yaml"
    path.write_text("fixed: {phase2.learning_rat: 1e-3}")
    result = CliRunner().invoke(main, ["spaces", str(path)])
    assert result.exit_code == 2
    message = f"{path}: fixed.phase2.learning_rat: no such key; did you mean phase2.learning_rate?"
    assert result.stderr.splitlines() == [f"hpo: {message}"]
