"""The best of a study: trials of the same parameters are one candidate, judged by all its values."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import FrozenTrial, TrialState, create_trial

from hpo.cli.confirm_text import cheap_lines, choice_lines, other_seeds_lines
from hpo.search.ranking import (
    ModelCost,
    cheapest,
    configuration_of,
    error_on,
    has_complete,
    noise_of,
    rank,
    replicated,
    tied_with_best,
)
from hpo.search.status import best_first
from hpo.search.trial_record import TrialRecord

VALUES = st.floats(0.0, 1.0)


def trial(number: int, value: float | None, state: TrialState = TrialState.COMPLETE, **attributes: Any) -> FrozenTrial:
    made = create_trial(state=state, value=value, user_attrs={"config": {"image_size": 96}, **attributes})
    made.number = number
    return made


def numbers(trials: list[FrozenTrial]) -> list[int]:
    return [one.number for one in trials]


def test_a_probe_needs_no_second_seed_to_be_believed() -> None:
    twice = [trial(1, 0.92), trial(2, 0.88, replicate_of=1)]
    (best, *_) = rank([trial(0, 0.91, probe="resnet18"), *twice])
    assert (best.trial.number, best.lower) == (0, 0.91)
    (best, *_) = rank([trial(0, 0.91), *twice])
    assert best.trial.number == 1, "a trained trial with one seed may have been lucky"


@given(st.lists(VALUES, max_size=8))
def test_without_replicates_the_order_is_that_of_the_values_the_earliest_of_equals_first(values: list[float]) -> None:
    trials = [trial(number, value) for number, value in enumerate(values)]
    trials.append(trial(len(values), None, TrialState.PRUNED))
    expected = sorted(range(len(values)), key=lambda number: (-values[number], number))
    assert numbers(best_first(trials)) == expected
    assert all(one.noise is None and one.lower == one.trial.value for one in rank(trials))


def test_one_lucky_value_does_not_outrank_a_configuration_that_did_well_twice() -> None:
    trials = [
        trial(0, 0.95), trial(1, 0.94), trial(2, 0.93),
        trial(3, 0.90, replicate_of=0), trial(4, 0.938, replicate_of=1),
    ]  # fmt: skip
    ranked = rank(trials)
    assert [one.trial.number for one in ranked] == [1, 0, 2], "trial 2 has one value: its lower bound is lower"
    assert ranked[0].mean == pytest.approx(0.939)
    assert numbers(best_first(trials)) == [1, 4, 0, 3, 2], "of a configuration the highest value first"


def test_a_replicate_with_a_higher_value_is_the_one_delivered() -> None:
    trials = [trial(0, 0.90), trial(1, 0.94, replicate_of=0)]
    assert rank(trials)[0].trial.number == 1


def test_a_trial_that_the_time_cut_short_is_not_averaged_with_whole_ones() -> None:
    trials = [trial(0, 0.90), trial(1, 0.50, replicate_of=0, reason="the time was up after epoch 1")]
    (one,) = rank(trials)
    assert (one.values, len(one.trials)) == ((0.90,), 2)
    assert rank(trials[1:])[0].values == (0.50,), "alone it counts: its checkpoint exists"


@given(st.lists(st.lists(VALUES, min_size=1, max_size=4), min_size=1, max_size=4))
def test_the_noise_is_pooled_over_all_configurations_with_several_values(groups: list[list[float]]) -> None:
    several = [group for group in groups if len(group) > 1]
    found = noise_of(groups)
    if not several:
        assert found is None
        return
    squares = sum((value - sum(group) / len(group)) ** 2 for group in several for value in group)
    assert found == pytest.approx(math.sqrt(squares / sum(len(group) - 1 for group in several)))


def test_a_configuration_is_json_and_found_by_any_of_its_trials() -> None:
    ranked = rank([trial(0, 0.90), trial(1, 0.94, replicate_of=0), trial(2, 0.5)])
    found = json.loads(json.dumps(ranked[0].to_dict(), allow_nan=False))
    assert (found["trials"], found["values"]) == ([0, 1], [0.94, 0.90])
    assert found["lower"] < found["mean"] == pytest.approx(0.92)
    assert configuration_of(ranked, 0) is ranked[0]
    assert configuration_of(ranked, 9) is None


def test_the_words_say_why_a_higher_value_is_not_the_best() -> None:
    ranked = rank([trial(0, 0.95), trial(1, 0.94), trial(2, 0.90, replicate_of=0), trial(3, 0.938, replicate_of=1)])
    first, second = choice_lines(ranked)
    assert first.startswith("trial 1: mean of 2 seeds 0.9390 ± ")
    assert second.startswith("trial 0 had 0.9500, but mean of 2 seeds 0.9250 ± ")
    assert other_seeds_lines(ranked, 1)[0].startswith("with other seeds: trial 3 0.9380; mean of 2 seeds 0.9390")
    assert other_seeds_lines(rank([trial(0, 0.5)]), 0) == []


# The cheapest of the tied


def costly(number: int, value: float, parameters: int, seconds: float) -> FrozenTrial:
    return trial(number, value, parameters=parameters, seconds=seconds, epochs=10)


def test_the_cheapest_in_use_is_taken_among_those_that_cannot_be_told_from_the_best() -> None:
    ranked = rank([costly(0, 0.95, 4_000_000, 50.0), costly(1, 0.945, 400_000, 90.0), costly(2, 0.80, 9, 1.0)])
    tied = tied_with_best(ranked, error_on(200))
    assert [one.trial.number for one in tied] == [0, 1]
    assert cheapest(tied).trial.number == 1
    (line,) = cheap_lines(tied)
    assert line == (
        "the cheapest of 2 configurations that cannot be told from the best: trial 1 0.9450, 400,000 parameters at "
        "96 px, 9 s an epoch; the best: trial 0 0.9500, 4,000,000 parameters at 96 px, 5 s an epoch"
    )
    assert [one.trial.number for one in tied_with_best(ranked, error_on(100_000))] == [0], "more images tell them apart"


def test_of_equal_models_the_one_with_shorter_epochs_is_cheaper_and_an_unknown_cost_is_the_highest() -> None:
    ranked = rank([trial(0, 0.95), costly(1, 0.95, 9, 90.0), costly(2, 0.95, 9, 50.0)])
    assert cheapest(ranked).trial.number == 2
    assert ModelCost.of(ranked[0].trial).work == math.inf


# Which trial is a replicate


def test_the_first_trial_with_the_same_parameters_is_the_original() -> None:
    first, again = trial(3, 0.5), trial(5, 0.6, replicate_of=3)
    assert replicated({}, 7, [first, again]) == 3
    assert replicated({}, 7, [again, first]) == 3, "the original of a replicate, not the replicate"
    assert replicated({"x": 1}, 7, [first]) is None
    assert replicated({}, 3, [first]) is None, "not itself"
    assert TrialRecord.of(again).replicate_of == 3


@pytest.mark.parametrize(("state", "value"), [(TrialState.FAIL, None), (TrialState.WAITING, None)])
def test_a_trial_that_failed_or_has_not_begun_is_no_original(state: TrialState, value: float | None) -> None:
    made = create_trial(state=state, value=value, user_attrs={"config": {}})
    made.number = 0
    assert replicated({}, 1, [made]) is None


def test_a_configuration_is_complete_if_one_of_its_trials_is() -> None:
    pruned = trial(0, None, TrialState.PRUNED)
    assert not has_complete(0, [pruned])
    assert has_complete(0, [pruned, trial(1, 0.5, replicate_of=0)])
