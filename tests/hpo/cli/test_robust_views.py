"""A study with a robustness above 0 shows both figures beside each value."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace

import numpy as np
import optuna
import pytest
from click.testing import Result
from rich.console import Console

from hpo.bundle.corrupted_records import RobustnessRecord
from hpo.cli.options import study_creation_options
from hpo.cli.robustness_text import RobustnessResult, print_robustness
from hpo.cli.run import robustness_lines
from hpo.cli.status import draw, plain_line
from hpo.evaluation.corrupted_copy import Condition
from hpo.evaluation.intervals import Score
from hpo.evaluation.robustness import FamilyScore, Robustness
from hpo.search.plan import DEFAULT_ROBUSTNESS
from hpo.search.status import StudyStatus, TrialStatus
from storage import Limits, read_spec
from storage.spec import write_spec

FIGURES = {"clean": 0.98, "altered": 0.84, "clean_curve": [0.9, 0.98], "altered_curve": [0.8, 0.84]}


@pytest.fixture
def shown() -> StudyStatus:
    line = TrialStatus(3, "complete", 0.91, 2, 2, [0.85, 0.91], {"learning_rate": 0.003}, 9.0, None, None)
    lines = [replace(line, figures=FIGURES), replace(line, number=4, state="failed", value=None, curve=[])]
    now = datetime(2026, 11, 29, tzinfo=UTC)
    return StudyStatus("s", "accuracy", "quick", Limits(trials=2), now, lines, lines[0], robustness=0.5)


@pytest.mark.parametrize("columns", [40, 80, 120, 200])
def test_the_status_has_both_figures_at_every_width(shown: StudyStatus, columns: int) -> None:
    console = Console(width=columns, file=io.StringIO(), record=True)
    console.print(draw(shown))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= columns
    assert "0.9100" in text
    assert "0.9800" in text
    assert "0.8400" in text
    if columns >= 80:
        assert "value" in text
        assert "altered" in text
        assert "what it tries" in text
        assert text.count("learning_rate=") == 3


def test_at_eighty_columns_the_curve_leaves_before_what_a_long_trial_tries(shown: StudyStatus) -> None:
    curve = [0.5 + place / 50 for place in range(20)]
    line = replace(shown.trials[0], number=117, epoch=20, epochs=20, curve=curve, seconds=4_000.0)
    status = replace(shown, trials=[line], best=line)
    texts = {}
    for columns in (80, 120):
        console = Console(width=columns, file=io.StringIO(), record=True)
        console.print(draw(status))
        texts[columns] = console.export_text()
    assert "what it tries" in texts[80]
    assert "curve" not in texts[80]
    assert "0.8400" in texts[80]
    assert "curve" in texts[120]


def test_a_finished_trial_is_one_line_with_both_figures(shown: StudyStatus) -> None:
    line = plain_line(shown, shown.trials[0])
    assert "best value 0.9100 (accuracy 0.9800 clean, 0.8400 altered) in epoch 2" in line
    plain = replace(shown, robustness=0.0, trials=[replace(shown.trials[0], figures=None)])
    assert "best accuracy 0.9100 in epoch 2" in plain_line(plain, plain.trials[0])


def test_trials_are_listed_with_both_figures(here: Callable[..., Result], bare_study: optuna.Study) -> None:
    write_spec(bare_study, read_spec(bare_study).model_copy(update={"robustness": 0.25}))
    trial = bare_study.ask()
    trial.report(0.91, 1)
    for name, value in {**FIGURES, "clean_curve": {"1": 0.98}, "altered_curve": {"1": 0.84}}.items():
        trial.set_user_attr(name, value)
    bare_study.tell(trial, 0.91)
    failed = bare_study.ask()
    bare_study.tell(failed, state=optuna.trial.TrialState.FAIL)
    first, second = json.loads(here("trials", "bare", "--json").stdout)
    assert (first["clean"], first["altered"], first["altered_curve"]) == (0.98, 0.84, [0.84])
    assert "clean" not in second
    rows = list(csv.DictReader(io.StringIO(here("trials", "bare", "--csv").stdout)))
    assert [(row["clean"], row["altered"]) for row in rows] == [("0.98", "0.84"), ("", "")]
    table = here("trials", "bare").stdout
    assert "0.9100" in table
    assert "0.8400" in table
    document = json.loads(here("status", "--study", "bare", "--json").stdout)
    assert document["robustness"] == 0.25
    assert (document["best"]["clean"], document["best"]["altered"]) == (0.98, 0.84)


def test_the_search_says_what_a_value_is_made_of_before_it_begins(bare_study: optuna.Study) -> None:
    val = SimpleNamespace(labels=np.repeat(np.arange(4), 50))
    dataset = SimpleNamespace(fold=lambda number: (range(800), val), folds=())
    assert robustness_lines(bare_study, dataset) == []  # type: ignore[arg-type]
    write_spec(bare_study, read_spec(bare_study).model_copy(update={"robustness": 0.25}))
    (line,) = robustness_lines(bare_study, dataset)  # type: ignore[arg-type]
    assert line == (
        "robustness 0.25: a trial's value is 0.75 of its accuracy on the validation images and 0.25 of that on "
        "256 altered ones (128 of them, 2 draws each)"
    )


def test_the_help_names_the_default() -> None:
    import click

    command = click.Command("x", params=[])
    option = next(p for p in study_creation_options(command).params if p.name == "robustness")
    assert f"else {DEFAULT_ROBUSTNESS:g}]" in (option.help or "")


@pytest.mark.parametrize(("images", "cells"), [(4, ("25 (4)", "100 (4)", "50")), (400, ("0.250", "1.000", "0.500"))])
def test_cells_of_few_images_are_per_cent_with_their_number(images: int, cells: tuple[str, ...]) -> None:
    right = (1, 2, 3, 4, 0)
    found = tuple(Condition("channel-shuffle", i + 1, images, n * images // 4) for i, n in enumerate(right))
    accuracy = Score(0.5, (0.4, 0.6), images)
    family = FamilyScore("seen", 1, accuracy, found)
    result = Robustness(images, images, accuracy, (family,))
    record = RobustnessRecord("2026-11-29", "val", "digest", "fingerprint", result)
    console = Console(width=80, file=io.StringIO(), record=True)
    print_robustness(console, RobustnessResult(record, "", ""))
    text = console.export_text()
    assert all(cell in text for cell in cells)
    assert "…" not in text
    assert ("% right (of n)" in text) == (images < 100)
