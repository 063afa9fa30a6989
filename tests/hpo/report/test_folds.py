"""What a page says of folds: the mean, its standard error, how many there are."""

from __future__ import annotations

from dataclasses import replace

from hpo.bundle.manifest import FoldValues
from hpo.report.build import bundle_page, study_page
from hpo.report.model_data import ModelData
from hpo.report.page import render
from hpo.report.study_data import StudyData

from .conftest import make_bundle, make_study, section_of

VALUES = {"count": 3, "steps": 6, "values": [0.5, 0.6, 0.7], "best_epochs": [1, 2, 2], "standard_error": 0.0577}


def folded() -> StudyData:
    study = make_study(8)
    trials = [replace(trial, record=replace(trial.record, folds=VALUES)) for trial in study.trials]
    return replace(study, trials=trials)


def test_a_study_over_folds_shows_the_noise_of_its_values() -> None:
    study = folded()
    best = study.best_trial
    assert best is not None
    page = render(study_page(study, None, None, "no model"))
    shown = f"{best.value:.3f} ± 0.058"
    assert page.count(shown) >= 2, "a key figure, and a row of the table"
    assert "3 folds ± its standard error" in page
    assert "mean over 3 folds" in section_of(page, "history")
    assert "the mean over those begun" in section_of(page, "curves")
    pruned = next(trial for trial in study.trials if trial.state == "pruned")
    assert pruned.saved == 3 * pruned.epochs - len(pruned.curve)


def test_a_study_of_one_split_says_nothing_of_folds() -> None:
    page = render(study_page(make_study(8), None, None, "no model"))
    assert "folds" not in page
    assert "±" not in page


def test_a_bundle_shows_the_mean_of_its_folds() -> None:
    folds = FoldValues(values=(0.5, 0.6, 0.7), best_epochs=(1, 2, 2), standard_error=0.0577)
    page = render(bundle_page(ModelData(make_bundle(("blue", "green", "red"), folds=folds)), None))
    assert "0.600 ± 0.058" in page
    assert "over 3: 0.5000, 0.6000, 0.7000" in section_of(page, "origin")
