from __future__ import annotations

import optuna
import pytest
from optuna.pruners import HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.trial import TrialState

from hpo.errors import UsageError
from hpo.search.strategy import make_pruner, make_sampler, pruner_for_space, sampler_for_trial
from search_spaces import SearchSpace


def test_samplers_of_one_study_draw_differently_for_every_trial() -> None:
    samplers = sampler_for_trial("tpe", 0)
    drawn = set()
    for asked in range(12):
        study = optuna.create_study(sampler=samplers(asked))  # an empty history, as many workers see it at the start
        drawn.add(study.ask().suggest_float("x", 0, 1))
    assert len(drawn) == 12


def test_the_same_history_gives_the_same_proposal() -> None:
    def proposals() -> list[float]:
        study = optuna.create_study(direction="maximize")
        samplers = sampler_for_trial("tpe", 3)
        values = []
        for asked in range(15):
            study.sampler = samplers(asked)
            trial = study.ask()
            values.append(trial.suggest_float("x", -1, 1))
            study.tell(trial, -abs(values[-1] - 0.3))
        return values

    assert proposals() == proposals()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("successive-halving", SuccessiveHalvingPruner),
        ("hyperband", HyperbandPruner),
        ("median", MedianPruner),
        ("none", NopPruner),
    ],
)
def test_every_pruner_is_made(name: str, kind: type) -> None:
    assert isinstance(make_pruner(name, 9), kind)


def test_successive_halving_lets_the_better_half_pass_a_rung() -> None:
    study = optuna.create_study(direction="maximize", pruner=make_pruner("successive-halving", 9))
    kept = []
    for value in (0.9, 0.1, 0.2, 0.3, 0.95, 0.4):
        trial = study.ask()
        trial.report(value, step=1)
        kept.append(not trial.should_prune())
        study.tell(trial, value)
    assert kept == [True, False, False, True, True, True]


@pytest.mark.parametrize("name", ["successive-halving", "hyperband", "median"])
def test_no_trial_is_pruned_before_the_first_epoch_of_the_last_phase(name: str) -> None:
    """In a first phase that trains the head alone, trials differ only in their seeds."""
    study = optuna.create_study(direction="maximize", pruner=make_pruner(name, 30, 11))
    for number in range(12):
        trial = study.ask()
        for epoch in range(1, 11):
            trial.report(0.9 - number / 20, step=epoch)
            assert not trial.should_prune()
        study.tell(trial, 0.9 - number / 20)


def test_the_median_of_later_folds_is_of_means_of_as_many_folds(tiny_space: SearchSpace) -> None:
    """A trial that is good in an easy first fold and poor in the second is pruned there."""
    study = optuna.create_study(direction="maximize", pruner=pruner_for_space("median", tiny_space, folds=3))
    for _ in range(6):
        trial = study.ask()
        for step, value in enumerate((0.80, 0.85, 0.72, 0.74), start=1):
            trial.report(value, step)
        study.tell(trial, 0.74)
    trial = study.ask()
    answers = []
    for step, value in enumerate((0.81, 0.86, 0.70, 0.71), start=1):
        trial.report(value, step)
        answers.append(trial.should_prune())
    assert answers == [False, False, True, True]


@pytest.mark.parametrize(("make", "name"), [(make_sampler, "grid"), (make_pruner, "wilcoxon")])
def test_an_unknown_name_is_refused_with_the_known_ones(make, name: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UsageError, match=f"is '{name}', but must be"):
        make(name, 0)


@pytest.mark.parametrize("diverged", [True, False])
def test_tpe_avoids_regions_where_runs_diverged_late(diverged: bool) -> None:
    """Below 0.5 the pruner ends trials after an epoch; above, they improve for eight epochs and diverge."""
    study = optuna.create_study(direction="maximize")
    for step in range(20):
        study.enqueue_trial({"x": 0.025 + step / 20})
        trial = study.ask()
        late = trial.suggest_float("x", 0, 1) > 0.5
        for epoch in range(1, 9 if late else 2):
            trial.report(0.9 if late else 0.5, epoch)
        if late and diverged:
            trial.set_constraint("diverged", 1.0)
        study.tell(trial, state=TrialState.PRUNED)
    samplers = sampler_for_trial("tpe", 0)
    proposed = []
    for number in range(40):
        study.sampler = samplers(number)
        trial = study.ask()
        proposed.append(trial.suggest_float("x", 0, 1))
        study.tell(trial, state=TrialState.FAIL)
    below = sum(x < 0.5 for x in proposed)
    assert below >= 30 if diverged else below <= 10
