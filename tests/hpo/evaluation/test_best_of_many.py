"""The best of several trials: whom it can be told from, how much of it is luck, what more trials would bring."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import inf

import numpy as np
import pytest

from hpo.evaluation.best_of_many import (
    ALPHA,
    MeasuredValue,
    TrueValues,
    lead_of,
    mcnemar,
    not_told_apart,
    own_errors,
    recent_gain,
)
from hpo.evaluation.metrics import scores
from hpo.evaluation.outcomes import Outcomes

IMAGES = 400


def simulated(truths: np.ndarray, rng: np.random.Generator) -> list[MeasuredValue]:
    """Return trials with these true accuracies on the same images, some of which are hard for all of them."""
    shared, own = rng.normal(0, 1, IMAGES), rng.normal(0, 1, (len(truths), IMAGES))
    score = (shared + own) / 2**0.5
    from scipy.stats import norm

    right = score < norm.ppf(truths)[:, None]
    labels = np.arange(IMAGES) % 2
    return [
        MeasuredValue.of([Outcomes.of(labels, np.eye(2)[np.where(one, labels, 1 - labels)])], "accuracy")
        for one in right
    ]


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 0), (5, 2), (2, 5), (40, 31), (3000, 2900)])
def test_mcnemar_is_the_binomial_test_with_half_of_the_observed_count(gained: int, lost: int) -> None:
    from scipy.stats import binom

    found = binom(gained + lost, 0.5)
    assert mcnemar(gained, lost) == pytest.approx(found.sf(gained) + found.pmf(gained) / 2)


@pytest.mark.parametrize("metric", ["balanced_accuracy", "macro_f1"])
@pytest.mark.parametrize("folds", [1, 2])
def test_one_image_of_a_rare_class_tells_no_trial_from_another(metric: str, folds: int) -> None:
    labels = np.repeat([0, 1, 2], [60, 60, 1])
    right, missed = (np.eye(3)[one] for one in (labels, np.where(labels == 2, 0, labels)))
    best, other = (MeasuredValue.of([Outcomes.of(labels, one)] * folds, metric) for one in (right, missed))
    assert best.value - other.value > 0.3
    assert not_told_apart(best, {1: other}) == [1], "its influence is 0 in both"
    assert best.contributions.sum() == pytest.approx(best.value)


@pytest.mark.parametrize("metric", ["balanced_accuracy", "macro_f1"])
def test_the_error_of_a_difference_is_that_of_a_paired_bootstrap(metric: str) -> None:
    rng = np.random.default_rng(4)
    labels = rng.integers(0, 4, 300)
    first = np.where(rng.random(300) < 0.15, rng.integers(0, 4, 300), labels)
    second = np.where(rng.random(300) < 0.10, rng.integers(0, 4, 300), first)
    logits = [np.eye(4)[one] for one in (first, second)]
    lead = lead_of(*(MeasuredValue.of([Outcomes.of(labels, one)], metric) for one in logits))
    differences = []
    for _ in range(400):
        rows = rng.integers(0, 300, 300)
        values = [scores(labels[rows], one[rows])[metric] for one in logits]
        differences.append(values[0] - values[1])
    assert lead.error == pytest.approx(float(np.std(differences)), rel=0.15)
    assert 0 < lead.chance < 0.5


def test_a_trial_is_never_told_from_one_that_predicts_the_same() -> None:
    (one,) = simulated(np.array([0.9]), np.random.default_rng(0))
    f1 = replace(one, right=None)
    assert lead_of(one, one).chance == 0.5
    assert lead_of(f1, f1).chance == 0.5
    assert not_told_apart(one, {4: one, 2: one}) == [2, 4]
    assert not_told_apart(one, {}) == []


def test_over_folds_the_values_are_means_and_the_images_are_joined() -> None:
    rng = np.random.default_rng(5)
    labels = np.arange(60) % 3
    folds = [Outcomes.of(labels, rng.normal(size=(60, 3))) for _ in range(4)]
    found = MeasuredValue.of(folds, "accuracy")
    assert found.value == pytest.approx(np.mean([one.value("accuracy") for one in folds]))
    assert len(found.influences) == 240
    wanted = np.linalg.norm([one.standard_error("accuracy") for one in folds]) / 4
    assert np.linalg.norm(found.influences) == pytest.approx(wanted)


def test_those_not_told_apart_hold_the_truly_best_in_95_of_100_searches() -> None:
    rng, held, named = np.random.default_rng(6), 0, 0
    truths = np.array([0.90, 0.90, 0.89, 0.88, 0.85, 0.70])
    for _ in range(200):
        trials = simulated(truths, rng)
        best = int(np.argmax([one.value for one in trials]))
        alike = not_told_apart(trials[best], {k: one for k, one in enumerate(trials) if k != best})
        held += {0, 1} <= {best, *alike}
        named += 5 in alike
    assert held / 200 >= 1 - ALPHA - 0.02
    assert named == 0, "what is clearly worse is told apart"


TRUTHS: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "all alike": lambda rng: np.full(15, 0.9),
    "as far apart as the noise": lambda rng: rng.normal(0.9, 0.01, 15),
    "half of them bad": lambda rng: np.where(rng.random(15) < 0.5, 0.9, rng.uniform(0.3, 0.9, 15)),
}


@pytest.mark.parametrize("kind", TRUTHS)
def test_the_expected_value_of_the_best_is_far_less_biased_than_the_measured_one(kind: str) -> None:
    rng, measured, expected, chances, worse = np.random.default_rng(7), [], [], [], []
    for _ in range(80):
        truths = TRUTHS[kind](rng)
        trials = simulated(truths, rng)
        values = np.array([one.value for one in trials])
        best = int(np.argmax(values))
        known = TrueValues.of(values, own_errors(trials, best))
        measured.append(values[best] - truths[best])
        expected.append(known.mean(best) - truths[best])
        first = 0 if best else 1
        chances.append(known.chance_worse(best, first))
        worse.append(0.5 if truths[best] == truths[first] else float(truths[best] < truths[first]))
    assert np.mean(measured) > 0.006, "the best of 15 is too high by selection"
    assert abs(np.mean(expected)) < 0.45 * np.mean(measured)
    # Of trials that are alike half of the picks are worse, which no measurement shows: it says less, but not nothing.
    assert np.mean(chances) == pytest.approx(np.mean(worse), abs=0.1 if kind.startswith("as far apart") else 0.3)
    assert np.mean(chances) > 0.4 * np.mean(worse)


def test_a_trial_far_below_the_others_changes_nothing_at_the_top() -> None:
    values, errors = [0.90, 0.91, 0.905, 0.90], [0.01, 0.01, 0.01, 0.01]
    top, with_bad = TrueValues.of(values, errors), TrueValues.of([*values, 0.1], [*errors, 0.05])
    assert with_bad.mean(1) == pytest.approx(top.mean(1), abs=0.002)
    assert with_bad.chance_worse(1, 4) == 0
    assert with_bad.chance_worse(4, 1) == 1


@pytest.mark.parametrize("count", [1, 2, 500])
def test_few_and_many_trials_have_finite_answers(count: int) -> None:
    values = np.random.default_rng(8).normal(0.9, 0.01, count)
    for errors in (np.full(count, 0.01), np.zeros(count)):
        known = TrueValues.of(values, errors)
        assert np.isfinite([known.mean(0), known.expected_gain(0, 10.0), known.chance_worse(0, count - 1)]).all()


def test_the_expected_gain_grows_with_the_trials_and_falls_with_the_best() -> None:
    values = np.sort(np.random.default_rng(9).normal(0.9, 0.02, 30))
    known = TrueValues.of(values, np.full(30, 0.005))
    gains = [known.expected_gain(29, further) for further in (1, 10, 100)]
    assert 0 < gains[0] < gains[1] < gains[2]
    assert known.expected_gain(15, 10) > gains[1]


def test_the_recent_gain_is_that_of_the_second_half() -> None:
    assert recent_gain([0.5, None, 0.7, None, 0.8, None]) == pytest.approx(0.1)
    assert recent_gain([0.9, 0.5, 0.8, 0.7]) == 0
    assert recent_gain([None, None, 0.8, 0.7]) == inf
