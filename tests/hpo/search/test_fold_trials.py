"""A trial over folds: each trains once, the value is their mean, a resumed trial equals an uninterrupted one."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.pruners import BasePruner

import hpo.search.trial_reporter as reporter_module
from hpo.cli.delivery_text import fold_lines
from hpo.data import SplitOptions, open_dataset
from hpo.delivery.export import export_trial
from hpo.search.fold_progress import FoldedProgress, fit_folds
from hpo.search.plan import Plan, create_or_open_study, set_budget
from hpo.search.status import StudyReader
from hpo.search.strategy import make_pruner
from hpo.search.trial import TrialOutcome, run_trial
from hpo.search.trial_record import FoldPlan
from hpo.search.worker import fold_plan
from hpo.search.worker_context import WorkerContext
from hpo.training import Runtime
from search_spaces import PlannedTrial, SearchSpace, TrialList
from storage import Database, read_spec

from .conftest import Bench

FOLDS = 3


@pytest.fixture
def folded(database: Database, cells: Path, tiny_space: SearchSpace, tmp_path: Path) -> Bench:
    database.initialise()
    split = SplitOptions(seed=0, test_fraction=0.1, folds=FOLDS)
    plan = Plan(cells, "folded", tiny_space, None, "accuracy", "tpe", "none", split)
    dataset = open_dataset(cells, image_size=32, cache=tmp_path / "cache", split=split)
    study = create_or_open_study(database, plan, dataset)
    study.pruner = make_pruner("none", 2)
    set_budget(database, study, 10, None)
    return Bench(database, study, dataset, tmp_path, cells)


def context(bench: Bench, space: SearchSpace, **stops: Any) -> WorkerContext:
    return replace(bench.context(space, **stops), folds=fold_plan(read_spec(bench.study), space))


def test_the_value_is_the_mean_of_the_folds_and_its_noise_is_recorded(folded: Bench, tiny_space: SearchSpace) -> None:
    assert run_trial(context(folded, tiny_space), folded.claim()) is TrialOutcome.COMPLETE
    (trial,) = folded.study.get_trials()
    folds = trial.user_attrs["folds"]
    assert folds["count"] == FOLDS
    assert folds["steps"] == 2
    assert folds["values"] == [max(curve) for curve in folds["curves"]]
    assert trial.value == fmean(folds["values"])
    assert folds["standard_error"] == pytest.approx(stdev(folds["values"]) / FOLDS**0.5)
    assert list(trial.intermediate_values) == [1, 2, 3, 4, 5, 6]
    assert trial.intermediate_values[1] == folds["curves"][0][0]
    assert trial.intermediate_values[3] == fmean([folds["values"][0], folds["curves"][1][0]])
    assert trial.intermediate_values[6] == trial.value
    assert trial.user_attrs["epochs"] == 6
    assert trial.user_attrs["best_metrics"]["accuracy"] == folds["values"][0]


def test_the_bundle_is_the_model_of_the_first_fold_with_the_value_of_all(
    folded: Bench, tiny_space: SearchSpace
) -> None:
    ready = context(folded, tiny_space)
    run_trial(ready, folded.claim())
    (trial,) = folded.study.get_trials()
    manifest, found = export_trial(folded.study, trial, ready.store, folded.folder / "best")
    folds = trial.user_attrs["folds"]
    assert found.n == len(folded.dataset.val)
    assert found.accuracy == pytest.approx(folds["values"][0])
    assert manifest.folds is not None
    assert manifest.folds.values == tuple(folds["values"])
    assert manifest.curve == tuple(folds["curves"][0])
    assert manifest.epochs_to_retrain == min(sorted(folds["best_epochs"])[FOLDS // 2], len(manifest.curve))
    mean, model = fold_lines(manifest)
    assert mean.startswith(
        f"mean accuracy over 3 folds {trial.value:.4f} ± {folds['standard_error']:.4f} (standard error)"
    )
    assert model.startswith("the model is that of the first fold")
    assert fold_lines(manifest.model_copy(update={"folds": None})) == [
        "of 3 folds this trial trained the first alone, so its value is no mean"
    ]


# Asked before each step and each batch of validation: these fall into the first, second and last fold.
@pytest.mark.parametrize("after", [9, 20, 31])
def test_an_interrupted_trial_resumes_in_its_fold_and_equals_an_uninterrupted_one(
    folded: Bench, tiny_space: SearchSpace, after: int
) -> None:
    steps = itertools.count()
    interrupted = context(folded, tiny_space, stop=lambda: next(steps) >= after)
    assert run_trial(interrupted, folded.claim()) is TrialOutcome.INTERRUPTED
    again = folded.claim()
    assert again.number == 0
    assert 0 < again.lease.position <= 6
    assert run_trial(context(folded, tiny_space), again) is TrialOutcome.COMPLETE
    trial = folded.study.get_trials()[0]

    folded.study.enqueue_trial({"learning_rate": trial.params["learning_rate"]})
    other = folded.claim()
    with pytest.MonkeyPatch.context() as patch:  # the same seed as trial 0, uninterrupted
        patch.setattr(reporter_module, "derive_seed", lambda *_: trial.user_attrs["seed"])
        run_trial(context(folded, tiny_space), other)
    whole = folded.study.get_trials()[1]
    assert whole.intermediate_values == trial.intermediate_values
    assert whole.user_attrs["folds"] == trial.user_attrs["folds"]
    store = interrupted.store
    assert store.read(0, "best").files == store.read(1, "best").files


def test_a_deadline_completes_with_the_finished_folds(folded: Bench, tiny_space: SearchSpace) -> None:
    steps = itertools.count()
    assert run_trial(context(folded, tiny_space, up=lambda: next(steps) >= 22), folded.claim()) is TrialOutcome.COMPLETE
    (trial,) = folded.study.get_trials()
    folds = trial.user_attrs["folds"]
    assert len(folds["values"]) == 1
    assert trial.value == fmean(folds["values"])
    assert trial.user_attrs["reason"] == "the time was up in fold 2 of 3: the value is that of the first fold"


class PruneAt(BasePruner):
    def __init__(self, step: int) -> None:
        self._step = step

    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        return max(trial.intermediate_values) >= self._step


@pytest.mark.parametrize("step", [1, 3])
def test_an_early_fold_may_prune(folded: Bench, tiny_space: SearchSpace, step: int) -> None:
    ready = context(folded, tiny_space)
    ready.study.pruner = PruneAt(step)
    assert run_trial(ready, folded.claim()) is TrialOutcome.PRUNED
    (trial,) = folded.study.get_trials()
    assert max(trial.intermediate_values) == step


def test_the_status_shows_fold_epoch_and_noise(folded: Bench, tiny_space: SearchSpace) -> None:
    steps = itertools.count()
    run_trial(context(folded, tiny_space, stop=lambda: next(steps) >= 20), folded.claim())
    line = StudyReader(folded.db, folded.study)().trials[0]
    assert line.folds is not None
    assert line.folds["fold"] in (1, 2)
    assert line.epoch <= line.epochs == 2
    run_trial(context(folded, tiny_space), folded.claim())
    status = StudyReader(folded.db, folded.study)()
    assert status.best is not None
    folds = folded.study.get_trials()[0].user_attrs["folds"]
    assert status.best.folds == {
        "fold": FOLDS, "of": FOLDS, "values": folds["values"], "standard_error": folds["standard_error"],
    }  # fmt: skip
    assert status.to_dict()["best"]["folds"] == status.best.folds


def test_an_unfinished_trial_is_worth_the_mean_of_its_finished_folds(folded: Bench, tiny_space: SearchSpace) -> None:
    """Not the highest of its reports, which is that of the easiest folds."""
    trial = folded.study.ask()
    trial.set_user_attr("folds", {"count": 3, "steps": 2})
    read = StudyReader(folded.db, folded.study)
    reports = {1: 0.7, 2: 0.9, 3: 0.6, 4: 0.8, 5: 0.7}
    shown = []
    for step, value in reports.items():
        trial.report(value, step)
        line = read().trials[0]
        assert line.folds is not None
        shown.append((line.value, line.folds["values"], line.folds["standard_error"]))
    assert shown == [
        (0.7, [], None),
        (0.9, [0.9], None),
        (0.9, [0.9], None),
        (0.8, [0.9, 0.7], pytest.approx(0.1)),
        (0.8, [0.9, 0.7], pytest.approx(0.1)),
    ]


def test_steps_are_those_of_the_longest_run_and_a_short_fold_leaves_a_gap() -> None:
    progress = FoldedProgress("accuracy", folds=2, steps=10)

    def add(epoch: int, value: float, *, last: bool = False) -> bool:
        result: Any = SimpleNamespace(
            epoch=epoch, last=last, metrics={"accuracy": value}, seconds=1.0, images_per_second=1.0, peak_memory=1,
            facts={},
        )  # fmt: skip
        return progress.add(result)

    assert add(1, 0.5)
    assert not add(2, 0.4, last=True)
    assert progress.position == 10
    assert not progress.last
    progress.fold = 1
    assert not add(1, 0.9)
    assert progress.position == 11
    assert progress.best_value == 0.5
    assert progress.best_so_far == "fold 1 0.5000"
    assert not add(2, 0.7, last=True)
    assert progress.last
    assert progress.curve == {"1": 0.5, "2": 0.5, "11": 0.7, "12": 0.7}
    assert progress.best_so_far == "mean of 2 folds 0.7000"
    assert progress.best_value == 0.7
    assert progress.best_epoch == 1
    again = FoldedProgress("accuracy")
    again.restore(progress.to_dict())
    assert again == progress


def test_each_fold_trains_on_all_images_but_its_own(folded: Bench, tiny_space: SearchSpace) -> None:
    seen: list[tuple[list[str], list[str], int]] = []

    def fake(config: Any, data: Any, runtime: Any, resume: Any) -> Iterator[Any]:
        seen.append((list(data.train.names), list(data.val.names), runtime.seed))
        yield from ()

    progress = FoldedProgress("accuracy", folds=FOLDS, steps=2)
    runtime = Runtime(seed=7)
    data_of = partial(folded.context(tiny_space).fit_data, folded.dataset)
    list(fit_folds(tiny_space.largest(), data_of, runtime, progress, lambda fold: None, None, fake))
    pool = {*folded.dataset.train.names, *folded.dataset.val.names}
    assert sorted(name for _, val, _ in seen for name in val) == sorted(pool)
    assert all(set(train) == pool - set(val) for train, val, _ in seen)
    assert len({seed for _, _, seed in seen}) == FOLDS
    assert seen[0][2] == 7


def test_a_trial_list_trains_on_the_first_fold_alone(folded: Bench, tiny_space: SearchSpace) -> None:
    spec = read_spec(folded.study)
    assert fold_plan(spec, tiny_space) == FoldPlan(FOLDS, 2)
    assert fold_plan(spec, TrialList("list", "", (PlannedTrial("one", tiny_space.largest()),))) is None
