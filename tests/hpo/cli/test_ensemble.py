"""`hpo ensemble` as a user meets it: a study made by `hpo run`, one bundle of several trials, one line for mistakes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import optuna
import pytest
from click.testing import Result

from hpo.bundle.bundle import read_bundle
from tests.hpo.cli.conftest import TINY, Command

pytestmark = pytest.mark.postgres


@pytest.mark.slow
def test_from_a_study_to_an_ensemble_that_is_a_bundle_like_any_other(
    command: Command, here: Callable[..., Result], cells: Path, tmp_path: Path
) -> None:
    ran = command(
        "run", str(cells), "--study", "several", "--space", "quick", *TINY, "--trials", "3", "--workers", "1",
        "--threads", "1", "--pruner", "none", "--keep", "2",
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    joined, soup, out = str(tmp_path / "joined"), str(tmp_path / "soup"), tmp_path / "predictions.csv"
    steps = [
        ("ensemble", "several", "--top", "3", "--out", joined),
        ("ensemble", "--study", "several", "--top", "3", "--out", soup, "--soup", "--data", str(cells)),
        ("evaluate", joined, "--data", str(cells), "--split", "val", "--json"),
        ("predict", joined, str(cells), "--out", str(out)),
    ]
    results = [here(*step, "--threads", "1") for step in steps]
    assert [r.exit_code for r in results] == [0] * 4, [r.stderr for r in results]
    for result in results[:2]:
        assert "checkpoint not kept; give `hpo run` a larger --keep" in result.stderr
        assert "each half of it, chosen on the other half" in result.stdout
        assert "calibration: temperature" in result.stdout
    measured, stored = json.loads(results[2].stdout), read_bundle(joined).metrics["validation"]
    assert measured["accuracy"] == pytest.approx(stored["accuracy"], abs=1 / stored["n"])
    assert len(out.read_text().splitlines()) == 121
    assert not read_bundle(soup).manifest.members, "a soup is one model"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), "'bare': 0 of the 0 best complete trials can be joined, but two are needed; let workers finish more"),
        (("--soup",), "--soup needs --data"),
        (("--data", "images"), "--data is for --soup alone"),
        (("--top", "1"), "1 is not in the range"),
    ],
)
def test_a_mistake_is_one_line(
    bare_study: optuna.Study,
    refused: Callable[[Sequence[str]], str],
    tmp_path: Path,
    options: tuple[str, ...],
    expected: str,
) -> None:
    out = tmp_path / "joined"
    assert expected in refused(["ensemble", "--study", bare_study.study_name, "--out", str(out), *options])
    assert not out.exists()


def test_a_missing_study_is_a_mistake(refused: Callable[[Sequence[str]], str], tmp_path: Path) -> None:
    assert "no study is named; write hpo ensemble STUDY" in refused(["ensemble", "--out", str(tmp_path / "joined")])
