"""Results on corrupted images: the same runs count as for the metric."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from hpo.data import SplitOptions
from hpo.errors import BundleError
from hpo.experiments.ablation_parts import Variation
from hpo.experiments.benchmark import Benchmark
from hpo.experiments.variation_results import CorruptionEvaluator, read_results
from search_spaces import TrialConfig
from storage import open_store

VARIATION = Variation((), TrialConfig())


class Known(CorruptionEvaluator):
    """An evaluator that reads accuracies from user attributes; a trial without one has lost its weights."""

    def accuracy(self, trial: FrozenTrial) -> float:
        if "corrupted" not in trial.user_attrs:
            raise BundleError(f"trial {trial.number}: its weights are gone")
        return float(trial.user_attrs["corrupted"])


def evaluator_of(tmp_path: Path, *runs: tuple[TrialState, float | None]) -> Known:
    """Return the evaluator of a study with a run for each seed, each with its state and corrupted accuracy."""
    study = optuna.create_study(direction="maximize")
    names = [VARIATION.run(seed) for seed in range(len(runs))]
    study.add_trial(create_trial(state=TrialState.FAIL))  # it ended before it was given a run
    for name, (state, corrupted) in zip(names, runs, strict=True):
        study.add_trial(
            create_trial(
                params={"run": name}, distributions={"run": CategoricalDistribution(names)}, state=state,
                value=0.9 if state == TrialState.COMPLETE else None, intermediate_values={1: 0.9},
                user_attrs={} if corrupted is None else {"corrupted": corrupted},
            )
        )  # fmt: skip
    benchmark = Benchmark(tmp_path, SplitOptions(), tmp_path, "cpu", test=False)
    return Known(study, open_store(tmp_path, "study"), benchmark, tmp_path)


def test_complete_and_diverged_runs_count_and_failed_ones_do_not(tmp_path: Path) -> None:
    states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.PRUNED)
    evaluator = evaluator_of(tmp_path, *zip(states, (0.7, 0.3, 0.6, None), strict=True))
    runs = read_results(evaluator.study, [VARIATION], len(states))
    assert set(runs[0].values) == {0, 1, 3}
    (found,) = evaluator.evaluate(runs, len(states), lambda done, total: None)
    assert found.values == {0: 0.7, 1: 0.3}
    assert [note for note in found.notes if "weights are not kept" in note] == [
        "everything, seed 3: its weights are not kept, so it has no corrupted accuracy"
    ]


def test_a_complete_run_without_weights_is_an_error(tmp_path: Path) -> None:
    evaluator = evaluator_of(tmp_path, (TrialState.COMPLETE, None))
    with pytest.raises(BundleError, match="weights are gone"):
        evaluator.evaluate(read_results(evaluator.study, [VARIATION], 1), 1, lambda done, total: None)
