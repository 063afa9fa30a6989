"""Trials of a study with a robustness above 0: value, figures, pruning, folds, and its spec."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

import hpo.search.trial_reporter as reporter_module
from hpo.data import SplitOptions, open_dataset
from hpo.search.fold_progress import FoldedProgress
from hpo.search.plan import Plan, create_or_open_study, set_budget
from hpo.search.status import StudyReader, _trial_status
from hpo.search.strategy import make_pruner
from hpo.search.trial import TrialOutcome, run_trial
from hpo.search.trial_record import TrialProgress, TrialRecord
from hpo.search.worker_context import WorkerContext
from search_spaces import SearchSpace
from storage import Database, StudyError, read_spec
from storage.spec import SPEC

from .conftest import Bench

WEIGHT = 0.4


@pytest.fixture
def robust(database: Database, cells: Path, tiny_space: SearchSpace, tmp_path: Path) -> Bench:
    database.initialise()
    split = SplitOptions(seed=0, val_fraction=0.2, test_fraction=0.1)
    plan = Plan(cells, "robust", tiny_space, None, "accuracy", "tpe", "none", split, robustness=WEIGHT)
    dataset = open_dataset(cells, image_size=32, cache=tmp_path / "cache", split=split)
    study = create_or_open_study(database, plan, dataset)
    study.pruner = make_pruner("none", 2)
    set_budget(database, study, 10, None)
    return Bench(database, study, dataset, tmp_path, cells)


def context(bench: Bench, space: SearchSpace, **stops: Any) -> WorkerContext:
    return replace(bench.context(space, **stops), robustness=read_spec(bench.study).robustness)


def test_the_value_is_that_of_the_best_epoch_and_both_figures_are_recorded(
    robust: Bench, tiny_space: SearchSpace
) -> None:
    ready = context(robust, tiny_space)
    assert run_trial(ready, robust.claim()) is TrialOutcome.COMPLETE
    (trial,) = robust.study.get_trials()
    record = TrialRecord.of(trial)
    for step, value in trial.intermediate_values.items():
        both = record.clean_curve[str(step)], record.altered_curve[str(step)]
        assert value == pytest.approx((1 - WEIGHT) * both[0] + WEIGHT * both[1])
    assert trial.value == max(trial.intermediate_values.values())
    best = str(record.best_epoch)
    assert (record.clean, record.altered) == (record.clean_curve[best], record.altered_curve[best])
    assert (record.clean, record.altered) == tuple(
        record.best_metrics[name] for name in ("accuracy", "altered_accuracy")
    )
    status = StudyReader(robust.db, robust.study)()
    assert status.robustness == WEIGHT
    assert status.best is not None
    assert status.best.pair == (record.clean, record.altered)
    assert status.best.to_dict()["altered_curve"] == [record.altered_curve["1"], record.altered_curve["2"]]


def test_predictions_on_altered_images_lie_beside_the_best_weights(robust: Bench, tiny_space: SearchSpace) -> None:
    ready = context(robust, tiny_space)
    run_trial(ready, robust.claim())
    best = ready.store.read(0, "best")
    data = ready.fit_data(robust.dataset)
    assert data.altered is not None
    assert set(best.files) == {
        "model.safetensors", "logits.npy", "labels.npy", "altered_logits.npy", "altered_rows.npy"
    }  # fmt: skip
    assert len(best.files["altered_logits.npy"]) < 200 + 4 * 8 * len(data.altered)
    assert list(robust.folder.rglob("cache/altered/*.npy"))


def test_both_figures_are_there_while_a_trial_runs(robust: Bench, tiny_space: SearchSpace) -> None:
    steps = itertools.count()
    run_trial(context(robust, tiny_space, stop=lambda: next(steps) >= 18), robust.claim())
    (trial,) = robust.study.get_trials()
    assert trial.state == TrialState.WAITING
    assert list(trial.intermediate_values) == [1]
    (line,) = StudyReader(robust.db, robust.study)().trials
    assert line.pair is not None
    assert line.value == pytest.approx((1 - WEIGHT) * line.pair[0] + WEIGHT * line.pair[1])


def test_an_interrupted_trial_equals_an_uninterrupted_one(robust: Bench, tiny_space: SearchSpace) -> None:
    steps = itertools.count()
    run_trial(context(robust, tiny_space, stop=lambda: next(steps) >= 18), robust.claim())
    assert run_trial(context(robust, tiny_space), robust.claim()) is TrialOutcome.COMPLETE
    first = robust.study.get_trials()[0]
    robust.study.enqueue_trial({"learning_rate": first.params["learning_rate"]})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reporter_module, "derive_seed", lambda *_: first.user_attrs["seed"])
        run_trial(context(robust, tiny_space), robust.claim())
    second = robust.study.get_trials()[1]
    assert second.intermediate_values == first.intermediate_values
    assert TrialRecord.of(second).altered_curve == TrialRecord.of(first).altered_curve


def test_without_robustness_there_is_neither_file_nor_figure(bench: Bench, tiny_space: SearchSpace) -> None:
    run_trial(context(bench, tiny_space), bench.claim())
    (trial,) = bench.study.get_trials()
    assert not [name for name in trial.user_attrs if "clean" in name or "altered" in name]
    assert not [name for name in trial.user_attrs["best_metrics"] if "altered" in name]
    assert not (bench.folder / "cache" / "altered").exists()
    assert bench.context(tiny_space).fit_data(bench.dataset).altered is None
    (line,) = StudyReader(bench.db, bench.study)().trials
    assert not {"clean", "altered", "figures"} & line.to_dict().keys()


def test_another_robustness_is_refused_and_none_is_that_of_the_study(robust: Bench, tiny_space: SearchSpace) -> None:
    split = SplitOptions(seed=0, val_fraction=0.2, test_fraction=0.1)
    again = Plan(robust.cells, "robust", tiny_space, None, "accuracy", "tpe", "none", split)
    assert create_or_open_study(robust.db, again, robust.dataset).study_name == "robust"
    with pytest.raises(StudyError, match=r"another robustness \(stored 0.4, asked 0.0\).* that --robustness"):
        create_or_open_study(robust.db, replace(again, robustness=0.0), robust.dataset)


def test_a_spec_without_robustness_is_as_earlier_versions_wrote_it(bench: Bench, robust: Bench) -> None:
    stored = bench.study.user_attrs[SPEC]
    assert "robustness" not in stored
    assert read_spec(bench.study).robustness == 0
    assert robust.study.user_attrs[SPEC]["robustness"] == WEIGHT


def result(epoch: int, clean: float, altered: float, *, last: bool = False) -> Any:
    metrics = {"accuracy": clean, "altered_accuracy": altered}
    return SimpleNamespace(
        epoch=epoch, last=last, metrics=metrics, seconds=1.0, images_per_second=1.0, peak_memory=1, facts={}
    )


def test_the_best_epoch_is_that_of_the_best_value_and_not_of_the_best_metric() -> None:
    progress = TrialProgress("accuracy", robustness=0.5)
    kept = [progress.add(result(*one)) for one in ((1, 0.8, 0.6), (2, 0.9, 0.4), (3, 0.85, 0.65))]
    assert kept == [True, False, True]
    assert progress.best_value == pytest.approx(0.75)
    assert progress.best_figures == (0.85, 0.65)
    again = TrialProgress("accuracy", robustness=0.5)
    again.restore(progress.to_dict())
    assert again == progress


def test_the_figures_of_a_trial_over_folds_are_means_over_the_folds() -> None:
    progress = FoldedProgress("accuracy", folds=2, steps=2, robustness=0.5)
    first = [(1, 0.8, 0.6), (2, 0.9, 0.4)]
    second = [(1, 0.5, 0.3), (2, 0.7, 0.5)]
    for fold, epochs in enumerate((first, second)):
        progress.fold = fold
        for one in epochs:
            progress.add(result(*one, last=one[0] == 2))
            step = max(progress.curve, key=int)
            pair = progress.clean_curve[step], progress.altered_curve[step]
            assert progress.curve[step] == pytest.approx(fmean(pair))
    assert progress.best_figures == pytest.approx((fmean([0.8, 0.7]), fmean([0.6, 0.5])))
    assert progress.best_value == pytest.approx(fmean(progress.best_figures))
    assert progress.recorded()["clean"] == progress.best_figures[0]
    assert "best_pairs" not in progress.recorded()
    again = FoldedProgress("accuracy", robustness=0.5)
    again.restore(progress.to_dict())
    assert again == progress


def test_the_figures_of_an_unfinished_trial_over_folds_make_its_value(tiny_space: SearchSpace) -> None:
    """The second fold begins better than the first, but a value is the mean over the finished folds."""
    progress = FoldedProgress("accuracy", folds=3, steps=2, robustness=0.5)
    progress.add(result(1, 0.5, 0.3))
    progress.add(result(2, 0.6, 0.4, last=True))
    progress.fold = 1
    progress.add(result(1, 0.9, 0.7))
    attributes = {**progress.figures, "folds": {"count": 3, "steps": 2}}
    curve = {int(step): value for step, value in progress.curve.items()}
    for state in (TrialState.RUNNING, TrialState.PRUNED):
        trial = optuna.trial.create_trial(state=state, user_attrs=attributes, intermediate_values=curve)
        shown = _trial_status(trial, tiny_space, datetime.now(UTC))
        assert (shown.value, shown.pair) == (pytest.approx(0.5), (0.6, 0.4))


def test_each_fold_has_an_altered_part_of_its_own(robust: Bench, tiny_space: SearchSpace, tmp_path: Path) -> None:
    split = SplitOptions(seed=0, test_fraction=0.1, folds=2)
    dataset = open_dataset(robust.cells, image_size=32, cache=tmp_path / "cache", split=split)
    parts = [data.altered for data in map(partial(context(robust, tiny_space).fit_data, dataset), range(2))]
    for fold, part in enumerate(parts):
        assert part is not None
        assert len(part) == 2 * len(dataset.folds[fold])
        assert np.array_equal(part.labels[: len(part) // 2], dataset.folds[fold].labels)


def test_the_pruner_judges_by_the_combined_value(robust: Bench, tiny_space: SearchSpace) -> None:
    seen: list[float] = []

    class Watching(optuna.pruners.BasePruner):
        def prune(self, study: object, trial: optuna.trial.FrozenTrial) -> bool:
            seen.extend(trial.intermediate_values.values())
            return True

    robust.study.pruner = Watching()
    assert run_trial(context(robust, tiny_space), robust.claim()) is TrialOutcome.PRUNED
    record = TrialRecord.of(robust.study.get_trials()[0])
    assert record.clean is not None
    assert record.altered is not None
    assert seen == [pytest.approx((1 - WEIGHT) * record.clean + WEIGHT * record.altered)]
