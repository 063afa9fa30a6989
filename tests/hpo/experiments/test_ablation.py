"""From runs to tables, figure and files."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState, create_trial
from rich.console import Console

from hpo.bundle.manifest import Manifest, RobustnessFigures
from hpo.data import Dataset, SplitOptions
from hpo.errors import HpoError
from hpo.experiments.ablation import Ablation, AblationOutcome, compute_outcome
from hpo.experiments.ablation_parts import Variation
from hpo.experiments.ablation_table import ablation_files, csv_table, markdown, notes, print_outcomes
from hpo.experiments.provenance import Provenance
from hpo.experiments.trial_list_study import named_plan, plan_trial_list
from hpo.experiments.variation_results import VariationResult, read_results
from search_spaces import PlannedTrial, TrialConfig, TrialList

CONFIG = TrialConfig()
ABOUT = Provenance(
    command="hpo ablate best", date="2026-01-02T03:04:05+00:00", machine="m", device=None, threads=None, seed=0,
    study="ablation-1", versions={},
    data={"path": "cells", "counts": {"train": 8, "val": 1, "test": 1}, "split": "as given"},
)  # fmt: skip


def ran(values: dict[str, list[float]]) -> list[VariationResult]:
    """Runs by the parts switched off, a value per seed."""
    return [
        VariationResult(
            Variation(tuple(parts.split()), CONFIG), dict(enumerate(runs)), ("no luck",) if not runs else ()
        )
        for parts, runs in values.items()
    ]


@pytest.fixture
def found() -> AblationOutcome:
    return compute_outcome(
        "accuracy", 3,
        ran({
            "": [0.90, 0.92, 0.91], "ema": [0.90, 0.93, 0.90], "mixup": [0.84, 0.87, 0.87], "augmentation": [],
            "label-smoothing": [0.91, 0.93, 0.92], "ema mixup": [0.69, 0.72, 0.72],
        }),
    )  # fmt: skip


def test_parts_come_by_contribution_and_those_without_a_run_last(found: AblationOutcome) -> None:
    assert [line.name for line in found.parts] == ["mixup", "ema", "label-smoothing", "augmentation"]
    mixup = found.parts[0].contribution
    assert mixup is not None
    assert (mixup.mean, mixup.verdict) == (pytest.approx(0.05), "more")
    assert found.contributions == pytest.approx({"mixup": 0.05, "ema": 0.0, "label-smoothing": -0.01})
    assert found.parts[-1].contribution is None


def test_a_pair_has_its_joint_contribution_and_its_interaction(found: AblationOutcome) -> None:
    (pair,) = found.pairs
    assert pair.contribution is not None
    assert pair.interaction is not None
    assert (pair.contribution.mean, pair.interaction.mean) == (pytest.approx(0.2), pytest.approx(0.15))


def test_pairs_come_by_absolute_interaction_and_those_without_a_run_last() -> None:
    results = ran({"": [0.9], "ema": [0.9], "mixup": [0.8], "cutmix": [0.9], "ema mixup": [], "ema cutmix": [0.7]})
    assert [line.name for line in compute_outcome("accuracy", 1, results).pairs] == ["ema and cutmix", "ema and mixup"]


def test_without_the_whole_there_is_nothing_to_compare_with() -> None:
    with pytest.raises(HpoError, match=r"nothing to compare with: no luck"):
        compute_outcome("accuracy", 1, ran({"": [], "ema": [0.5]}))


def test_results_are_read_from_the_study() -> None:
    study = optuna.create_study(direction="maximize")
    names = ["everything, seed 0", "everything, seed 1", "without ema, seed 0"]

    def add(name: str, state: TrialState, value: float | None, curve: dict[int, float]) -> None:
        study.add_trial(
            create_trial(
                params={"run": name},
                distributions={"run": CategoricalDistribution(names)},
                state=state,
                value=value,
                intermediate_values=curve,
                user_attrs={"reason": "it collapsed"},
            )
        )

    add(names[0], TrialState.COMPLETE, 0.9, {1: 0.9, 2: 0.8})
    add(names[1], TrialState.FAIL, None, {1: 0.4})
    add(names[2], TrialState.PRUNED, 0.2, {1: 0.3, 2: 0.2})
    whole, without = read_results(study, [Variation((), CONFIG), Variation(("ema",), CONFIG)], seeds=2)
    assert (whole.values, without.values) == ({0: 0.9}, {0: 0.3}), "best epochs, of no failed run"
    assert whole.notes == ("everything, seed 1: fail, it collapsed",)
    assert without.notes == ("without ema, seed 0: pruned, it collapsed", "without ema, seed 1: not trained")


def test_the_table_fits_a_terminal_of_120_columns(found: AblationOutcome) -> None:
    console = Console(width=120, file=io.StringIO(), color_system=None)
    print_outcomes(console, [found, found], ABOUT)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= 120
    assert "everything: accuracy 91.00 ± 1.00 (3 seeds)" in text
    mixup = next(line for line in text.splitlines() if line.startswith("mixup"))
    assert mixup.split()[-6:] == ["86.00", "+5.00", "+2.52", "to", "+7.48", "helps"]
    assert re.search(r"ema and mixup +\+20.00 +\+15.00 .* make up for each other", text)


def test_one_seed_says_that_it_gives_no_interval() -> None:
    one = compute_outcome("accuracy", 1, ran({"": [0.9], "ema": [0.8]}))
    assert any("one seed gives no interval" in line for line in notes([one], ABOUT))
    assert "| ema | the weights themselves | 80.00 | +10.00 | – | open |" in markdown([one], ABOUT)


def test_the_notes_on_intervals_count_those_that_are_shown() -> None:
    two = compute_outcome("accuracy", 3, ran({"": [0.9, 0.92, 0.91], "ema": [0.8, 0.85], "mixup": [0.9, 0.8, 0.7]}))
    lines = notes([two], ABOUT)
    assert any("Student's t over 2 to 3 seeds" in line for line in lines)
    assert any(line.startswith("2 intervals: ") and line.endswith("up to 10%") for line in lines)
    assert not any("exactly the same" in line for line in lines)
    same = notes([compute_outcome("accuracy", 2, ran({"": [0.5, 0.75], "ema": [0.25, 0.5]}))], ABOUT)
    assert any("exactly the same" in line for line in same)
    assert not any("Student" in line or "intervals: " in line for line in same)


def test_csv_holds_the_figures_in_full(found: AblationOutcome) -> None:
    lines = list(csv.DictReader(io.StringIO(csv_table([found]).decode())))
    assert [line["parts"] for line in lines] == [
        "mixup", "ema", "label-smoothing", "augmentation", "ema and mixup",
    ]  # fmt: skip
    assert float(lines[0]["contribution"]) == pytest.approx(0.05)
    assert lines[3]["contribution"] == "" != lines[3]["notes"]
    assert float(lines[4]["interaction"]) == pytest.approx(0.15)


def test_files_hold_everything(found: AblationOutcome) -> None:
    written = ablation_files([found, found], CONFIG.to_dict(), ABOUT)
    assert set(written) == {"table.md", "table.csv", "figure.svg", "figure.png", "results.json"}
    assert written["figure.svg"] == ablation_files([found, found], CONFIG.to_dict(), ABOUT)["figure.svg"]
    results = json.loads(written["results.json"])
    assert results["config"] == CONFIG.to_dict()
    assert results["outcomes"][0]["everything"]["values"] == [0.90, 0.92, 0.91]
    assert len(results["outcomes"][1]["parts"]) == 4


def test_parts_are_judged_by_the_value_that_chose_the_trial(manifest: Manifest, dataset: Dataset) -> None:
    figures = RobustnessFigures(weight=0.25, clean=0.9, altered=0.8)
    robust = manifest.model_copy(update={"robustness": figures})
    plain, weighed = (Ablation(Path("cells"), dataset, one, CONFIG, (), 1, None) for one in (manifest, robust))
    assert (plain.metric, plain.robustness) == ("accuracy", 0.0)
    assert (weighed.metric, weighed.robustness) == ("0.75 clean + 0.25 altered accuracy", 0.25)
    trials = TrialList("ablation", "", (PlannedTrial("one", CONFIG),))
    names = [
        named_plan(
            plan_trial_list(Path("cells"), None, trials, metric="accuracy", split=SplitOptions(), robustness=weight),
            dataset,
        ).study
        for weight in (0.0, 0.25, 0.5)
    ]
    assert len(set(names)) == 3, "each weight has a study of its own"
