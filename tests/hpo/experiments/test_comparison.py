"""Measuring many: what befalls one takes nothing from the others."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpo.bundle.bundle import read_bundle
from hpo.cli.compare import measured
from hpo.errors import HpoError
from hpo.experiments.benchmark import Benchmark
from hpo.experiments.compared_model import ComparedModel


def test_one_that_cannot_be_measured_is_missing_and_the_others_are_told(
    bench: Benchmark, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    untrained = ComparedModel("untrained", "preset", (), notes=("failed: no memory",))
    gone = ComparedModel("gone", "bundle", (bundle, tmp_path / "gone"), notes=("a note",))
    rows, missing = measured([untrained, gone, ComparedModel("there", "bundle", (bundle,))], bench, 1)
    assert [row.label for row in rows] == ["there"]
    assert [one.label for one in missing] == ["untrained", "gone"]
    assert missing[1].notes == (
        "a note",
        f"{tmp_path / 'gone'}: no such folder; `hpo export-best` and `hpo retrain` write bundles",
    )
    assert "gone cannot be measured" in capsys.readouterr().err
    assert len(read_bundle(bundle).metrics["test_openings"]) == 1


def test_where_none_can_be_measured_there_is_no_table(bench: Benchmark, tmp_path: Path) -> None:
    with pytest.raises(HpoError, match="no contestant could be measured"):
        measured([ComparedModel("gone", "bundle", (tmp_path / "gone",))], bench, 1)
