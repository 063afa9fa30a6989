"""The benchmark of single choices under shift: a tiny run, what it keeps, and its tables."""

from __future__ import annotations

import json
import zipfile
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import shift_parts
from benchmarks.shift_parts import LINES, PARTS, RECIPE, KeptRuns, Setting, lines_of, measure, table
from hpo.data.synthetic import write_cells
from search_spaces import TrialConfig

SETTING = Setting(images=8, epochs=1, size=32, clean=8, sample=4, data="d")


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a zip of drawn cells with the parts train and val."""
    folder = tmp_path_factory.mktemp("cells")
    for part, count in (("train", 80), ("val", 16)):
        write_cells(folder / part, count, size=32, seed=count)
    path = folder / "cells.zip"
    with zipfile.ZipFile(path, "w") as file:
        for image in sorted([*(folder / "train").rglob("*.*"), *(folder / "val").rglob("*.*")]):
            file.write(image, image.relative_to(folder))
    return path


def run(share: float, **more: Any) -> dict[str, Any]:
    return {"clean": share, "altered": share / 2, "unseen": share / 4, "seconds": 1.0, **more}


def test_every_line_is_a_configuration() -> None:
    for lines in LINES.values():
        for changes in lines.values():
            config = TrialConfig.from_dict({**RECIPE, "pretrained": True, **changes})
            assert {**RECIPE, **changes}.items() <= config.to_dict().items()


def test_lines_that_ask_for_the_same_are_run_once_and_finished_where_any_part_asks() -> None:
    lines = lines_of(PARTS)
    keys = [shift_parts._key(changes, 0) for _, changes, _ in lines]
    assert len(keys) == len(set(keys))
    assert sum(finish for _, _, finish in lines) == len(shift_parts.FINISHED)
    assert not any(finish for _, _, finish in lines_of(["blocks"]))


def test_a_tiny_run_is_measured_kept_and_not_made_again(
    cells: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LINES, "blocks", {"all": {"unfreeze_depth": 1.0}})
    monkeypatch.setattr(shift_parts, "FINISHED", {"all": {"unfreeze_depth": 1.0}})
    monkeypatch.setattr(shift_parts, "ADAPTED_TO", 1)
    given = Namespace(
        images=16, epochs=1, size=32, clean=12, sample=10, seeds=[0], part=["blocks", "finishing"], cache=None,
        out=tmp_path / "out",
    )  # fmt: skip
    first = measure(cells, None, given)
    kept = json.loads((tmp_path / "out" / "runs.json").read_text())
    (found,) = kept["runs"].values()
    assert set(found) == {"clean", "altered", "unseen", "finishing", "seconds"}
    assert set(found["finishing"]) == set(shift_parts.WAYS)
    assert kept["setting"]["clean"] == 12
    monkeypatch.setattr(shift_parts, "run_line", lambda *arguments, **options: pytest.fail("it was made again"))
    assert measure(cells, None, given).splitlines()[:9] == first.splitlines()[:9]
    given.size = 16
    with pytest.raises(SystemExit, match="name another folder"):
        measure(cells, None, given)


def test_differences_are_taken_in_pairs_of_seeds_from_the_first_line() -> None:
    base = {seed: run(0.9 + seed / 100) for seed in range(3)}
    other = {seed: run(0.92 + seed / 100 + seed / 1000) for seed in range(3)}
    lines = table({"one": base, "other": other, "none": {}}).splitlines()
    assert lines[2].startswith("| one | 91.00 |  |")
    assert lines[3].startswith("| other | 93.10 | +2.10 (+1.85 to +2.35) |")
    assert lines[4] == "| none | – | – | – | – | – | – |"


def test_a_single_seed_has_no_interval() -> None:
    assert (
        table({"one": {0: run(0.9)}, "other": {0: run(0.8)}}).splitlines()[3].startswith("| other | 80.00 | -10.00 |")
    )


def test_runs_are_found_by_what_differs_from_the_recipe(tmp_path: Path) -> None:
    runs = KeptRuns(tmp_path / "runs.json", SETTING)
    runs.keep({"augmentation_strength": 0.4, "unfreeze_depth": 0.3}, 1, run(0.5))
    again = KeptRuns(tmp_path / "runs.json", SETTING)
    assert again.get({"unfreeze_depth": 0.3}, 1) == run(0.5)
    assert again.get({"unfreeze_depth": 0.3}, 2) is None
    assert np.isclose(again.seconds, 1)
