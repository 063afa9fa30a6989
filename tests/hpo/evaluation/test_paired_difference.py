"""The standard error of a difference of values: against counts, derivatives and resampling."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpo.evaluation.metrics import scores
from hpo.evaluation.outcomes import influences
from hpo.evaluation.paired_difference import MeasuredImages, PairedDifference, critical

METRICS = ("accuracy", "balanced_accuracy", "macro_f1")


def images(labels: np.ndarray, metric: str = "accuracy", units: np.ndarray | None = None) -> MeasuredImages:
    numbers = np.arange(len(labels)) if units is None else units
    return MeasuredImages(labels, numbers, np.zeros(len(labels), dtype=bool), metric)


def weighted(metric: str, labels: np.ndarray, predicted: np.ndarray, weights: np.ndarray, classes: int) -> float:
    """The metric where image i counts `weights[i]` times."""
    table = np.zeros((classes, classes))
    np.add.at(table, (labels, predicted), weights)
    hits, true, named = table.diagonal(), table.sum(axis=1), table.sum(axis=0)
    if metric == "accuracy":
        return float(hits.sum() / true.sum())
    if metric == "balanced_accuracy":
        return float((hits[true > 0] / true[true > 0]).mean())
    some = true + named > 0
    return float((2 * hits[some] / (true + named)[some]).mean())


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(METRICS))
def test_an_influence_is_the_derivative_by_the_weight_of_an_image(seed: int, metric: str) -> None:
    rng = np.random.default_rng(seed)
    labels, predicted = rng.integers(0, 4, (2, 25))
    found = influences(labels, predicted, 4, metric)
    assert found.sum() == pytest.approx(0, abs=1e-12)
    step = 1e-6 * np.eye(25)
    for row in range(25):
        up, down = (weighted(metric, labels, predicted, 1 + sign * step[row], 4) for sign in (1, -1))
        assert found[row] == pytest.approx((up - down) / 2e-6, abs=1e-7)
    value = scores(labels, np.eye(4)[predicted])[metric]
    assert weighted(metric, labels, predicted, np.ones(25), 4) == pytest.approx(value)


def test_the_error_of_an_accuracy_is_that_of_the_images_that_differ() -> None:
    labels = np.zeros(100, dtype=np.int64)
    before, after = np.zeros((2, 100), dtype=np.int64)
    before[:12], after[12:15] = 1, 1  # 12 gained, 3 lost
    found = images(labels).difference(np.eye(2)[before], np.eye(2)[after])
    assert found.gain == pytest.approx(0.09)
    assert found.error == pytest.approx(math.sqrt(15) / 100)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("rare", [1, 2, 3])
def test_a_class_of_few_images_that_are_all_gained_is_not_certain(metric: str, rare: int) -> None:
    labels = np.repeat([0, 1], [100, rare])
    wrong, right = np.eye(2)[np.zeros(len(labels), dtype=np.int64)], np.eye(2)[labels]
    found = images(labels, metric).difference(wrong, right)
    assert found.gain > 0
    assert not found.exceeds(math.sqrt(rare) + 0.1), "as many images would all be gained by chance"


@pytest.mark.parametrize("metric", METRICS)
def test_as_large_a_gain_in_each_of_few_groups_is_no_more_certain_than_their_number_allows(metric: str) -> None:
    labels, groups = np.tile([0, 1], 150), np.arange(300) // 100
    before = np.where(np.arange(300) % 100 < 20, 1 - labels, labels)
    found = images(labels, metric, groups).difference(np.eye(2)[before], np.eye(2)[labels])
    assert found.gain == pytest.approx(0.2, abs=0.01)
    assert not found.exceeds(math.sqrt(3) + 0.01), "three patients"


@pytest.mark.parametrize("metric", METRICS)
def test_the_error_agrees_with_resampling(metric: str) -> None:
    rng = np.random.default_rng(1)
    labels = rng.choice(3, 400, p=(0.6, 0.3, 0.1))
    before, after = (np.where(rng.random(400) < share, labels, rng.integers(0, 3, 400)) for share in (0.7, 0.8))
    found = images(labels, metric).difference(np.eye(3)[before], np.eye(3)[after])
    drawn = rng.multinomial(400, np.full(400, 1 / 400), 400).astype(float)
    gains = [weighted(metric, labels, after, w, 3) - weighted(metric, labels, before, w, 3) for w in drawn]
    assert found.error == pytest.approx(np.std(gains), rel=0.15)


def test_forms_of_one_image_that_change_together_count_as_one() -> None:
    rng = np.random.default_rng(0)
    labels = np.zeros(100, dtype=np.int64)
    before, after = (np.eye(2)[(rng.random(100) < 0.4).astype(int)] for _ in range(2))
    once = images(labels).difference(before, after)
    twice = images(np.tile(labels, 2), units=np.tile(np.arange(100), 2)).difference(
        np.tile(before, (2, 1)), np.tile(after, (2, 1))
    )
    assert (twice.gain, twice.error) == (pytest.approx(once.gain), pytest.approx(once.error))


def test_clean_and_altered_images_are_weighed_as_in_a_trials_value() -> None:
    labels, altered = np.array([0, 0, 0, 0]), np.array([False, False, True, True])
    measured = MeasuredImages(labels, np.array([0, 1, 0, 1]), altered, "accuracy", 0.25)
    wrong_once = np.eye(2)[[0, 0, 0, 1]]
    assert measured.figures(wrong_once) == {"accuracy": 1.0, "altered_accuracy": 0.5}
    assert measured.value(wrong_once) == pytest.approx(0.875)
    clean = MeasuredImages(labels[:2], np.arange(2), altered[:2], "accuracy", 0.25)
    assert clean.value(wrong_once[:2]) == 1.0
    assert measured.to_dict() == {"images": 2, "altered": 2, "units": 2, "metric": "accuracy", "weight": 0.25}


def test_more_trials_ask_for_a_larger_gain_and_no_gain_is_none() -> None:
    assert critical(1) == pytest.approx(1.645, abs=1e-3)
    assert critical(5) == pytest.approx(2.326, abs=1e-3)
    assert PairedDifference(0.9, 0.92, 0.005).exceeds(3.9)
    assert not PairedDifference(0.9, 0.92, 0.005).exceeds(4.1)
    assert not PairedDifference(0.9, 0.9, 0.0).exceeds(2)
