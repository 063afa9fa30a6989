"""The section on noise in the report of a study."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hpo.report.build import study_page, study_tiles
from hpo.report.noise_section import noise_section
from hpo.report.page import render
from hpo.report.study_data import StudyData
from hpo.search.noise import FreshSeeds, Rival, StudyNoise
from hpo.search.trial_record import TrialRecord
from storage import Convergence, Database, read_openings_of_data, write_opening
from tests.hpo.report.conftest import make_study, section_of

NOISE = StudyNoise(
    0, 0.9825, 0.0034, images=1710, compared=14, alike=(3, 9), expected=0.9801,
    rivals=(Rival("first", 3, 0.975, 0.004, pruned=False), Rival("default", 6, 0.97, 0.12, pruned=True)),
    fresh=FreshSeeds(0.9825, (12, 15), 0.979, 0.0012),
)  # fmt: skip


def noisy(noise: StudyNoise | None, **more: object) -> StudyData:
    study = make_study(18)
    record = TrialRecord(standard_error=0.0034)
    trials = [replace(trial, value=0.9825, record=record) for trial in study.trials]
    return replace(study, trials=trials, best=0, noise=noise, **more)  # type: ignore[arg-type]


def test_the_section_says_what_will_hold_and_which_trials_may_be_as_good() -> None:
    results = [{"accuracy": 0.9789, "command": "retrain", "date": "2026-11-29T12:00:00", "n": 1367}]
    study = noisy(NOISE, converged=Convergence(23, 0.0004, 0.0021), test_results=results)
    page = section_of(render(study_page(study, None, None, "no model")), "noise")
    for text in (
        "2 other complete trials of 14 cannot be told from trial 0 on the same 1,710 validation images.",
        "0.9825 ± 0.0034", "0.9801 ± 0.0034", "the best of 15 is 0.0024 too high by selection, as estimated",
        "0.9790 ± 0.0012", "mean of 2 other seeds; the search measured 0.9825",
        "trial 3, the first trial", "under 1\N{NO-BREAK SPACE}%",
        "trial 6, the first known-good point of the space, which was pruned", "12\N{NO-BREAK SPACE}%", "0.9789",
        "hpo retrain, 2026-11-29, n 1,367", "The search ended after 23 finished trials", "under 0.05 / 14",
    ):  # fmt: skip
        assert text in page
    assert study_tiles(study, None)[0].value == "0.9825 ± 0.0034"


@pytest.mark.parametrize(
    ("noise", "text"),
    [
        (None, "There is no complete trial yet."),
        (StudyNoise(0, 0.9, None), "it was trained by an earlier version of hpo"),
        (
            replace(NOISE, compared=0, alike=(), expected=None, rivals=(), fresh=None),
            "There is no other complete trial",
        ),
        (replace(NOISE, compared=2), "None of the 2 other complete trials can be told from trial 0"),
        (replace(NOISE, compared=1, alike=()), "Trial 0 leads 1 other complete trial by more than chance on the same"),
        (replace(NOISE, alike=tuple(range(1, 15))), "2 more trials cannot be told from it."),
    ],
)
def test_the_section_of_other_studies(noise: StudyNoise | None, text: str) -> None:
    assert text in section_of(render(study_page(noisy(noise), None, None, "no model")), "noise")


def test_a_list_of_runs_has_no_such_section() -> None:
    study = noisy(NOISE)
    listed = replace(study, trials=[replace(trial, params={"run": "one"}) for trial in study.trials])
    assert '<section id="noise"' not in render(study_page(listed, None, None, "no model"))
    assert noise_section(study).values["compared"] == 14


@pytest.mark.postgres
def test_the_accesses_to_the_tests_of_a_data_set_are_read(database: Database) -> None:
    database.initialise()
    shared = {"command": "retrain", "model": "m", "accuracy": 0.9, "n": 10}
    for date, data in (("2026-11-02", "d"), ("2026-11-01", "d"), ("2026-11-03", "other")):
        write_opening(database, {**shared, "date": date, "data": data, "test": date})
    assert [one["date"] for one in read_openings_of_data(database, "d")] == ["2026-11-01", "2026-11-02"]
