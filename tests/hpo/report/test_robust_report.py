"""The report of a study, and of a bundle, whose value is made of clean and altered images."""

from __future__ import annotations

from dataclasses import replace

from hpo.bundle.manifest import Adaptation, Interpolation, RobustnessFigures
from hpo.report.build import bundle_page, study_page, study_tiles
from hpo.report.model_data import ModelData
from hpo.report.page import render
from hpo.report.reproduce import study_recipe
from hpo.report.search_sections import curves, history
from hpo.report.study_data import StudyData
from hpo.search.trial_record import TrialRecord
from tests.hpo.report.conftest import make_bundle, make_study, section_of


def robust_study(robustness: float) -> StudyData:
    study = make_study(6)
    steps = {str(step): 0.5 + step / 100 for step in range(1, 7)}
    record = TrialRecord(clean=0.98, altered=0.84, clean_curve=steps, altered_curve=steps)
    trials = [replace(trial, record=record) for trial in study.trials]
    spec = study.spec.model_copy(update={"robustness": robustness})
    return replace(study, spec=spec, trials=trials)


def test_the_best_trials_and_the_curves_show_both_figures() -> None:
    study = robust_study(0.5)
    found = history(study)
    assert found.values["made_of"] == (
        "The value is 0.5 times the accuracy on clean validation images plus 0.5 times that on altered ones."
    )
    assert found.values["metric"] == "value"
    assert found.values["best"][0]["figures"] == ["0.9800", "0.8400"]
    assert "its altered images" in curves(study).values["svg"]
    assert study_tiles(study, None)[0].detail.endswith("accuracy 0.9800 clean, 0.8400 altered")
    page = render(study_page(study, None, None, "no model"))
    assert page.count("The value is 0.5 times the accuracy") == 2
    assert '<td class="number">0.8400</td>' in section_of(page, "history")
    plain = make_study(6)
    assert history(plain).values["made_of"] == ""
    assert "altered" not in curves(plain).values["svg"]


def test_the_command_names_the_robustness() -> None:
    commands = [command.text for command in study_recipe(robust_study(0.25), None).commands]
    assert "--metric accuracy --robustness 0.25 --sampler" in commands[0]
    assert "--robustness" not in study_recipe(make_study(6), None).commands[0].text


def test_a_bundle_says_what_was_done_to_the_weights_of_its_trial() -> None:
    between = Interpolation(share=0.8, tried=(1.0, 0.8))
    adapted = Adaptation(images=32, found=40, digest="d", sources=("new",), prior=16)
    bundle = make_bundle(("a", "b"), interpolated=between, adapted=adapted)
    origin = section_of(render(bundle_page(ModelData(bundle), None)), "origin")
    assert "backbone at 0.8 of the trained weights" in origin
    assert "adapted to 32 of 40 unlabelled images of new (hpo adapt)" in origin
    assert "since then" not in section_of(render(bundle_page(ModelData(make_bundle(("a", "b"))), None)), "origin")


def test_a_bundle_names_the_figures_of_its_trial() -> None:
    robustness = RobustnessFigures(weight=0.5, clean=0.98, altered=0.84)
    origin = section_of(render(bundle_page(ModelData(make_bundle(("a", "b"), robustness=robustness)), None)), "origin")
    assert "0.9100: accuracy 0.9800 on clean and 0.8400 on altered validation images, robustness 0.5" in origin
