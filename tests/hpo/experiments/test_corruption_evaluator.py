"""Runs on the corrupted copy: the same ones count as for the metric."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from hpo.data import SplitOptions
from hpo.errors import BundleError
from hpo.experiments.ablation import CorruptionEvaluator, seen
from hpo.experiments.ablation_parts import Variation
from hpo.experiments.benchmark import Benchmark
from search_spaces import TrialConfig
from storage import open_store

VARIATION = Variation((), TrialConfig())


class Known(CorruptionEvaluator):
    """An examiner of runs whose weights are on record as accuracies; the others' weights are gone."""

    def accuracy(self, trial: FrozenTrial) -> float:
        if "corrupted" not in trial.user_attrs:
            raise BundleError(f"trial {trial.number}: its weights are gone")
        return float(trial.user_attrs["corrupted"])


def examiner(tmp_path: Path, *runs: tuple[TrialState, float | None]) -> Known:
    """Over a study with a run per seed, each with its state and its accuracy on the corrupted copy."""
    study = optuna.create_study(direction="maximize")
    names = [VARIATION.run(seed) for seed in range(len(runs))]
    study.add_trial(create_trial(state=TrialState.FAIL))  # it ended before it took a run
    for name, (state, corrupted) in zip(names, runs, strict=True):
        study.add_trial(
            create_trial(
                params={"run": name}, distributions={"run": CategoricalDistribution(names)}, state=state,
                value=0.9 if state == TrialState.COMPLETE else None, intermediate_values={1: 0.9},
                user_attrs={} if corrupted is None else {"corrupted": corrupted},
            )
        )  # fmt: skip
    bench = Benchmark(tmp_path, SplitOptions(), 0.05, tmp_path, "cpu", test=False)
    return Known(study, open_store(tmp_path, "study"), bench, tmp_path)


def test_complete_and_diverged_runs_count_and_failed_ones_do_not(tmp_path: Path) -> None:
    states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.PRUNED)
    them = examiner(tmp_path, *zip(states, (0.7, 0.3, 0.6, None), strict=True))
    runs = seen(them.study, [VARIATION], len(states))
    assert set(runs[0].values) == {0, 1, 3}
    (found,) = them.seen(runs, len(states), lambda done, total: None)
    assert found.values == {0: 0.7, 1: 0.3}
    assert [note for note in found.notes if "no weights are kept" in note] == [
        "everything, seed 3: no weights are kept of it, so none meet corrupted images"
    ]


def test_a_complete_run_without_weights_is_an_error(tmp_path: Path) -> None:
    them = examiner(tmp_path, (TrialState.COMPLETE, None))
    with pytest.raises(BundleError, match="weights are gone"):
        them.seen(seen(them.study, [VARIATION], 1), 1, lambda done, total: None)
