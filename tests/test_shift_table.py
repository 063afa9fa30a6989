"""The benchmark of spaces and robustness: its table, what it keeps, and how a search by epochs ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import shift_table
from benchmarks.shift_table import ARMS, Bench, KeptArms, about_line, document, gap, run_arm, search_by_epochs


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(Path("cells.zip"), Path("w.safetensors"), tmp_path, 64, 2, 40.0, None, 0)


def measured(wrong: list[int], correct: int) -> dict[str, Any]:
    """A result on 100 images; `correct` of 10 under every kind and severity."""
    share = {"value": correct / 10, "interval": [0.1, 0.9], "n": 100, "spread": None}
    conditions = [
        {"corruption": kind, "severity": severity, "images": 10, "correct": correct}
        for kind in ("a", "b")
        for severity in range(1, 6)
    ]
    families = [{"family": name, "accuracy": share, "conditions": conditions} for name in ("seen", "unseen")]
    clean = {"value": 1 - len(wrong) / 100, "interval": [0.8, 0.99], "n": 100, "spread": None}
    return {"images": 100, "of": 100, "clean": clean, "families": families, "altered": share, "wrong": wrong}


def searched() -> dict[str, Any]:
    return {"trials": {"complete": 3, "pruned": 4, "failed": 0}, "epochs": 31, "minutes": 40.1, "load": [0.1, 2.0],
            "date": "2026-11-29T12:00+00:00"}  # fmt: skip


def test_a_row_is_relative_to_the_first_arm(bench: Bench) -> None:
    first, other = list(ARMS)[:2]
    arms = {
        first: {"search": searched(), "single": measured([1, 2], 5)},
        other: {"search": searched(), "single": measured([2, 3, 4], 8), "finished": measured([2], 9)},
    }
    lines = document(arms, about_line(bench, arms)).splitlines()
    rows = [line for line in lines if line.startswith("| quick")]
    assert rows[0].endswith("| 50.00 (10.0–90.0) | 1.000 |")
    assert "| 3 complete, 4 pruned | 97.00 (80.0–99.0) | -1.00 ± " in rows[1]
    assert rows[1].endswith("| 0.400 |")
    assert rows[2].startswith(f"| {other} | finished |")
    assert f"{other}: 1.00." in lines[-3]
    assert "40 minutes for each search with 2 workers" in lines[-1]
    assert "Epochs trained: quick, 0: 31, quick, 0.25: 31." in lines[-1]


def test_the_gap_counts_the_images_where_two_models_differ() -> None:
    mean, half = gap(measured([1, 2, 3], 5), measured([3, 4], 5))
    assert mean == pytest.approx(-1)
    assert half == pytest.approx(196 * (3 - 0.01) ** 0.5 / 100)
    assert gap(measured([1], 5), measured([1], 5)) == (0, 0)


def test_steps_that_are_kept_are_not_done_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(shift_table, "search", lambda *_: done.append("search") or searched())
    monkeypatch.setattr(shift_table, "export", lambda *_: done.append("export"))
    monkeypatch.setattr(shift_table, "measure", lambda *_: measured([], 5))
    monkeypatch.setattr(shift_table, "kinds", lambda: ("single",))
    kept = KeptArms(bench.out / "table.json", {"size": 64})
    run_arm(bench, "quick, 0", kept)
    again = KeptArms(bench.out / "table.json", {"size": 64})
    run_arm(bench, "quick, 0", again)
    assert done == ["search", "export"]
    assert json.loads((bench.out / "table.json").read_text())["arms"]["quick, 0"]["single"]["wrong"] == []
    with pytest.raises(SystemExit, match="name another folder"):
        KeptArms(bench.out / "table.json", {"size": 96})


def test_a_search_by_epochs_ends_after_the_trial_that_reaches_them(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[object, ...]] = []
    monkeypatch.setattr(shift_table, "call", lambda _, *words: calls.append(words))
    monkeypatch.setattr(shift_table, "trials", lambda *_: [{"epoch": 6}] * len(calls))
    counted = Bench(bench.data, bench.weights, bench.out, 64, 1, 0.0, 13, 0)
    search_by_epochs(counted, "quick, 0", ["run"])
    assert [words[-1] for words in calls] == [1, 2, 3]


def test_names_of_studies_and_bundles_differ_by_arm_and_budget(bench: Bench) -> None:
    names = {bench.study(arm) for arm in ARMS}
    assert len(names) == len(ARMS)
    assert all(name.replace("-", "").isalnum() for name in names)


def test_the_options_of_the_export_are_read_from_the_command_line() -> None:
    assert {"--study", "--out", "--force"} <= shift_table.export_options()
