"""Images of another laboratory: checked before the work, measured whole, never the locked test part."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hpo.bundle.bundle import Extras, read_bundle, write_bundle
from hpo.bundle.manifest import Manifest
from hpo.bundle.model import load
from hpo.data import Dataset, ImageDigests
from hpo.data.synthetic import CELL_CLASSES, write_cells
from hpo.errors import DataError
from hpo.experiments.benchmark import Benchmark
from hpo.experiments.compared_model import ComparedModel
from hpo.experiments.comparison import measure_row
from hpo.experiments.other_data import OtherData

FIRST, SECOND = sorted(CELL_CLASSES)[:2]


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return other cells of two classes, one of them under another name."""
    whole = tmp_path_factory.mktemp("other") / "cells"
    write_cells(whole, 24, size=32, seed=9)
    lab = whole.parent / "lab"
    lab.mkdir()
    (whole / FIRST).rename(lab / FIRST)
    (whole / SECOND).rename(lab / "theirs")
    return lab


def test_a_wrong_class_is_found_before_the_work(laboratory: Path, dataset: Dataset) -> None:
    with pytest.raises(DataError, match=r"class 'theirs' of .* is unknown to the model"):
        OtherData(laboratory).check(dataset.classes)
    OtherData(laboratory, {"theirs": SECOND}).check(dataset.classes)
    OtherData(laboratory, {"theirs": ""}).check(dataset.classes)


def test_a_row_has_the_figures_of_the_other_laboratory(benchmark: Benchmark, bundle: Path, laboratory: Path) -> None:
    there = replace(benchmark, test=False, other=OtherData(laboratory, {"theirs": SECOND}))
    row = measure_row(ComparedModel("one", "bundle", (bundle,)), there)
    assert row.other is not None
    assert row.other_balanced is not None
    assert row.other.n == 6
    assert any("no image is of class" in note and "of the other 2" in note for note in row.other_notes)
    assert any("'theirs' is taken as" in note for note in row.other_notes)


def test_the_locked_test_part_is_not_another_laboratory(
    manifest: Manifest, weights: bytes, dataset: Dataset, cells: Path, cache: Path, tmp_path: Path
) -> None:
    known = Extras(known=ImageDigests.of(dataset))
    write_bundle(tmp_path / "bundle", manifest, weights, {"test_openings": []}, extras=known)
    with pytest.raises(DataError, match="are of the locked test part of the model's own data"):
        OtherData(cells).measure(load(tmp_path / "bundle", "cpu"), cache, None)
    assert read_bundle(tmp_path / "bundle").metrics["test_openings"] == []
