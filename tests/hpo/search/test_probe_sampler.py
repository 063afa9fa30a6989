"""Probes are no observations of a sampler, prune nothing, and give hopeless backbones fewer trials."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.samplers import BaseSampler
from optuna.trial import TrialState, create_trial

from hpo.search.probe_sampler import KEPT, aware_of_probes, hopeless_backbones, is_hopeless
from hpo.search.strategy import make_pruner, pruner_for_space, sampler_for_trial
from hpo.search.trial_record import probe_attributes
from search_spaces import SearchSpace

Samplers = Callable[[int], BaseSampler]


def probe(backbone: str, value: float) -> optuna.trial.FrozenTrial:
    return create_trial(value=value, user_attrs=probe_attributes(backbone))


def proposals(
    samplers: Samplers, probes: int, pruner: str = "none", count: int = 24
) -> list[tuple[dict[str, Any], bool]]:
    """Return parameters and pruning of trials that are worth most at x = 0.3; the study begins with good probes."""
    study = optuna.create_study(direction="maximize", pruner=make_pruner(pruner, 4, 1, probes))
    for number in range(probes):
        study.add_trial(probe(f"net{number}", 0.99))
    found = []
    for number in range(count):
        study.sampler = samplers(number)
        trial = study.ask()
        x = trial.suggest_float("x", -1, 1)
        if x > 0:
            trial.suggest_categorical("kind", ["a", "b"])
        value = 0.5 - abs(x - 0.3)
        trial.report(value, 1)
        pruned = trial.should_prune()
        found.append((trial.params, pruned))
        study.tell(trial, None if pruned else value, TrialState.PRUNED if pruned else None)
    return found


@pytest.mark.parametrize("pruner", ["none", "median", "successive-halving"])
def test_probes_change_neither_proposals_nor_pruning(pruner: str) -> None:
    plain = sampler_for_trial("tpe", 3)
    without = proposals(plain, 0, pruner)
    assert proposals(aware_of_probes(plain, 3), 2, pruner) == without
    assert proposals(plain, 2, pruner) != without, "else this test compares nothing"


def test_the_median_pruner_waits_for_trained_trials(tiny_space: SearchSpace) -> None:
    study = optuna.create_study(direction="maximize", pruner=pruner_for_space("median", tiny_space, 1, probes=1))
    study.add_trial(probe("net", 0.9))
    answers = []
    for number in range(6):
        trial = study.ask()
        trial.report(0.5 - number / 10, 1)
        answers.append(trial.should_prune())
        study.tell(trial, 0.5)
    assert answers == [False] * 4 + [True] * 2


def drawn(probes: dict[str, float], name: str = "tpe", count: int = 60) -> Counter[str]:
    """Count the backbones of trials that are all worth the same."""
    study = optuna.create_study(direction="maximize")
    for backbone, value in probes.items():
        study.add_trial(probe(backbone, value))
    samplers = aware_of_probes(sampler_for_trial(name, 0), 0)
    found: Counter[str] = Counter()
    for number in range(count):
        study.sampler = samplers(number)
        trial = study.ask()
        found[trial.suggest_categorical("backbone", list(probes))] += 1
        trial.suggest_float("x", 0, 1)
        study.tell(trial, 0.5)
    return found


@pytest.mark.parametrize("name", ["tpe", "random"])
def test_a_hopeless_backbone_gets_fewer_trials_but_some(name: str) -> None:
    found = drawn({"good": 0.93, "fair": 0.90, "hopeless": 0.60}, name)
    assert 1 <= found["hopeless"] <= 60 / 3 / KEPT * 2
    assert min(found["good"], found["fair"]) > found["hopeless"]


def test_where_no_probe_is_far_below_the_sampler_decides() -> None:
    plain = {"good": 0.93, "fair": 0.90}
    assert not hopeless_backbones([probe(*one) for one in plain.items()])
    assert min(drawn(plain).values()) > 10


def test_known_good_points_of_a_hopeless_backbone_are_trained() -> None:
    study = optuna.create_study(direction="maximize", sampler=aware_of_probes(sampler_for_trial("tpe", 0), 0)(0))
    for backbone, value in (("good", 0.95), ("hopeless", 0.2)):
        study.add_trial(probe(backbone, value))
    study.enqueue_trial({"backbone": "hopeless"})
    assert study.ask().suggest_categorical("backbone", ["good", "hopeless"]) == "hopeless"


def test_a_failed_or_unfinished_probe_says_nothing() -> None:
    failed = create_trial(state=TrialState.FAIL, user_attrs=probe_attributes("net"))
    assert not hopeless_backbones([failed, probe("good", 0.95)])
    assert set(hopeless_backbones([probe("net", 0.5), probe("good", 0.95)])) == {"net"}


@given(st.floats(0, 1), st.floats(0, 1))
def test_the_best_is_never_hopeless_and_worse_is_never_better(value: float, best: float) -> None:
    assert not is_hopeless(best, best)
    assert not (is_hopeless(value, best) and value >= best)
    assert is_hopeless(value, best) <= is_hopeless(value / 2, best)
