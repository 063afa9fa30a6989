"""Measuring several models: the failure of one does not lose the figures of the others."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest

from hpo.bundle.stored_metrics import openings_of
from hpo.errors import HpoError
from hpo.experiments.benchmark import Benchmark
from hpo.experiments.compared_model import ComparedModel
from hpo.experiments.comparison import measure_models


def test_a_model_that_cannot_be_measured_is_missing_and_the_others_have_rows(
    benchmark: Benchmark, bundle: Path, tmp_path: Path
) -> None:
    untrained = ComparedModel("untrained", "preset", (), notes=("failed: no memory",))
    gone = ComparedModel("gone", "bundle", (bundle, tmp_path / "gone"), notes=("a note",))
    lines: list[str] = []
    models = [untrained, gone, ComparedModel("there", "bundle", (bundle,))]
    rows, missing = measure_models(models, benchmark, nullcontext_of, lines.append)
    assert [row.label for row in rows] == ["there"]
    assert [one.label for one in missing] == ["untrained", "gone"]
    assert missing[1].notes == (
        "a note",
        f"{tmp_path / 'gone'}: no such folder; `hpo export-best` and `hpo retrain` write bundles",
    )
    assert any("gone cannot be measured" in line for line in lines)
    assert len(openings_of(bundle)) == 1


def test_without_a_measured_model_there_is_no_table(benchmark: Benchmark, tmp_path: Path) -> None:
    gone = ComparedModel("gone", "bundle", (tmp_path / "gone",))
    with pytest.raises(HpoError, match="no model could be measured"):
        measure_models([gone], benchmark, nullcontext_of, lambda line: None)


def nullcontext_of(what: str) -> nullcontext[None]:
    return nullcontext()
