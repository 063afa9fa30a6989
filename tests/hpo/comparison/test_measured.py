"""Measuring many: what befalls one takes nothing from the others."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpo.cli.compare import measured
from hpo.comparison.bench import Bench
from hpo.comparison.candidate import Candidate
from hpo.delivery.bundle import read_bundle
from hpo.errors import HpoError


def test_one_that_cannot_be_measured_is_missing_and_the_others_are_told(
    bench: Bench, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    untrained = Candidate("untrained", "preset", (), notes=("failed: no memory",))
    gone = Candidate("gone", "bundle", (bundle, tmp_path / "gone"), notes=("a note",))
    rows, missing = measured([untrained, gone, Candidate("there", "bundle", (bundle,))], bench, 1)
    assert [row.label for row in rows] == ["there"]
    assert [one.label for one in missing] == ["untrained", "gone"]
    assert missing[1].notes == (
        "a note",
        f"{tmp_path / 'gone'}: no such folder; `hpo export-best` and `hpo retrain` write bundles",
    )
    assert "gone cannot be measured" in capsys.readouterr().err
    assert len(read_bundle(bundle).metrics["test_openings"]) == 1


def test_where_none_can_be_measured_there_is_no_table(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(HpoError, match="no contestant could be measured"):
        measured([Candidate("gone", "bundle", (tmp_path / "gone",))], bench, 1)
