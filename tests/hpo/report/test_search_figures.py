"""Figures of searches of every size."""

import re

import numpy as np
import pytest

from hpo.report import search_figures as figures
from hpo.report.search_figures import Scale, parallel
from hpo.report.study_data import TrialData

from .conftest import make_trials

MANY = make_trials(5_000)


def test_thinning_keeps_the_best_and_the_order():
    kept = figures.thinned(MANY, 400)
    assert len(kept) == 400
    assert [trial.number for trial in kept] == sorted(trial.number for trial in kept)
    best = sorted(MANY, key=lambda trial: -(trial.value or -1))[:100]
    assert {trial.number for trial in best} <= {trial.number for trial in kept}
    assert len({trial.number for trial in kept}) == 400


def test_few_trials_are_not_thinned():
    assert figures.thinned(MANY[:10], 400) == MANY[:10]


def test_a_collapsed_trial_does_not_squeeze_the_others():
    values = [0.97, 0.975, 0.98, 0.985, 0.98, 0.1]
    assert 0.8 < figures.floor_of(values) < 0.97
    assert figures.floor_of([0.5, 0.6, 0.7]) == 0.5
    assert figures.floor_of([]) == 0.0


def test_history_names_states_and_marks_each_trial():
    svg = figures.history(MANY[:30], "accuracy")
    for word in ("best so far", "complete", "pruned", "trial", "accuracy"):
        assert f">{word}</text>" in svg
    marks = len(re.findall(r"<use [^>]*var\(--(?:blue|faint)\)", svg))
    assert marks >= 29, "all but the one that failed without a value, and the legend's"


@pytest.mark.parametrize("draw", [
    lambda trials: figures.history(trials, "accuracy"),
    lambda trials: figures.learning_curves(trials, 3, "accuracy"),
    lambda trials: figures.progress(trials, "accuracy"),
    lambda trials: parallel(figures.thinned([t for t in trials if t.value], 400), ["learning_rate"], 3, "accuracy"),
])  # fmt: skip
def test_five_thousand_trials_stay_small(draw):
    assert len(draw(MANY)) < 700_000


@pytest.mark.parametrize("trials", [
    [TrialData(0, "complete", 0.5, (0.5,), 1, {"a": 1}, 1.0, 2.0)],
    [TrialData(0, "running", 0.5, (0.4, 0.5), 3)],
])  # fmt: skip
def test_one_trial_is_drawn(trials):
    assert ">accuracy</text>" in figures.history(trials, "accuracy")
    assert ">epoch</text>" in figures.learning_curves(trials, 0, "accuracy")


def test_the_best_value_goes_on_to_the_end_of_the_search():
    trials = [
        TrialData(0, "complete", 0.5, (0.5,), 1, {}, 60.0, 60.0),
        TrialData(1, "complete", 0.4, (0.4,), 1, {}, 60.0, 120.0),
        TrialData(2, "pruned", 0.3, (0.3,), 3, {}, 60.0, 36_000.0),
    ]
    assert "hours since the first trial began" in figures.progress(trials, "accuracy")
    assert "minutes since the first trial began" in figures.progress(trials[:2], "accuracy")


@pytest.mark.filterwarnings("error")
def test_a_collapsed_trial_does_not_squeeze_the_progress():
    """It stands at the lower edge: drawn where it is, far below the figure, it would leave the axes no height."""
    values = [0.98, 0.982, 0.1, 0.983, 0.981, 0.984]
    trials = [
        TrialData(number, "complete", value, (value,), 1, {}, 60.0, 60.0 * (number + 1))
        for number, value in enumerate(values)
    ]
    assert "best accuracy" in figures.progress(trials, "accuracy")


def test_scales_of_all_kinds():
    log = Scale.of("learning_rate", [1e-5, 1e-3, 1e-1])
    assert log.log
    assert log.place(1e-3) == pytest.approx(0.5)
    assert [text for _, text in log.ticks] == ["1e-05", "0.001", "0.1"]
    line = Scale.of("dropout", np.linspace(0, 0.5, 40).tolist())
    assert (line.place(0.0), line.place(0.5), line.log) == (0.0, 1.0, False)
    names = Scale.of("optimiser", ["sgd", "adamw", True, None])
    assert names.choices == ("adamw", "none", "sgd", "true")
    assert names.place("sgd") == pytest.approx(2 / 3)
    assert Scale.of("epochs", [3, 3]).place(3) == 0.5


def test_a_missing_parameter_is_drawn_below_its_axis():
    trials = [trial for trial in MANY[:40] if trial.value is not None]
    svg = parallel(trials, ["learning_rate", "dropout", "optimiser"], 0, "accuracy")
    assert ">not used</text>" in svg
    assert ">not used</text>" not in parallel(trials, ["learning_rate", "optimiser"], 0, "accuracy")


def test_importance_names_each_parameter_and_its_share():
    svg = figures.importance({"learning_rate[adamw]": 0.75, "<b>": 0.25})
    assert ">learning_rate[adamw]</text>" in svg
    assert "75\N{NO-BREAK SPACE}%" in svg
    assert "&lt;b&gt;" in svg
