"""What accuracy is in reach: the bound of Cover and Hart, the power law and the words for both."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo.inspection.probe import out_of_fold
from hpo.inspection.target import CurvePoint, Target, cover_hart, fit_power_law, learning_curve, measure_target
from tests.hpo.inspection.made_embeddings import cloud, embeddings_of


def test_the_probe_is_measured_with_interval_and_curve() -> None:
    points, labels = cloud(np.random.default_rng(0), 4, 80)
    target = measure_target(embeddings_of(points + np.random.default_rng(1).normal(0, 3, points.shape), labels))
    assert target is not None
    low, high = target.interval
    assert low < target.accuracy < high
    assert target.majority == 0.25
    assert [point.share for point in target.curve] == [0.10, 0.25, 0.50, 1.0]
    assert target.curve[-1].accuracy == target.accuracy > target.curve[0].accuracy
    assert 0 <= target.least_error <= target.neighbour_error
    assert len(target.lines()) == 3
    assert "an extrapolation beyond the data" in target.lines()[2]


def test_terms_are_explained_and_no_bound_is_told_that_the_probe_disproves() -> None:
    target = Target(200, 0.8, (0.74, 0.85), 0.3, 0.3, 0.16, (), None)
    probe, bound, _ = target.lines()
    assert "a simple classifier on features of a network that does not train on these images (linear probe)" in probe
    assert bound.startswith("the nearest other picture has another label for 30.0%: with these features no classifier")
    assert "wrong for less than 16.0% (bound of Cover and Hart)" in bound
    _, disproved, _ = replace(target, accuracy=0.85).lines()
    assert "16.0%" not in disproved
    assert "too few to say from it which error cannot be avoided" in disproved


def test_known_predictions_of_the_whole_take_the_place_of_the_longest_fits() -> None:
    points, labels = cloud(np.random.default_rng(0), 4, 60)
    points = (points + np.random.default_rng(1).normal(0, 3, points.shape)).astype(np.float32)
    known = out_of_fold(points, labels, 4)
    assert learning_curve(points, labels, 4, known=known) == learning_curve(points, labels, 4)
    right, curve = learning_curve(points, labels, 4, known=np.eye(4, dtype=np.float32)[labels])
    assert right == len(points), "only these are asked for all points"
    assert curve[:-1] == learning_curve(points, labels, 4)[1][:-1]


def test_copies_count_once_and_left_out_groups_not() -> None:
    points, labels = cloud(np.random.default_rng(0), 3, 40)
    every = np.concatenate([points, np.repeat(points[:1], 50, axis=0)])
    groups = np.concatenate([np.arange(120), np.zeros(50, np.int64)])
    embedded = embeddings_of(every, np.concatenate([labels, np.zeros(50, np.int64)]), groups)
    whole, fewer = measure_target(embedded), measure_target(embedded, np.array([130, 5]))
    assert whole is not None
    assert fewer is not None
    assert (whole.images, fewer.images) == (120, 118)


@pytest.mark.parametrize(("classes", "each"), [(1, 100), (3, 5)])
def test_too_little_to_measure(classes: int, each: int) -> None:
    points, labels = cloud(np.random.default_rng(0), classes, each)
    assert measure_target(embeddings_of(points, labels)) is None


@given(st.floats(0, 1), st.integers(2, 100))
def test_the_bound_of_cover_and_hart_inverts_their_formula(error: float, classes: int) -> None:
    bound = cover_hart(error, classes)
    most = (classes - 1) / classes
    assert 0 <= bound <= min(error, most) + 1e-9
    if error <= most:
        assert bound * (2 - bound / most) == pytest.approx(error, abs=1e-6)


def test_a_power_law_is_recovered() -> None:
    images = (100, 250, 500, 1000)
    curve = tuple(CurvePoint(n / 1000, n, 1 - (0.05 + 2 * n**-0.5)) for n in images)
    law = fit_power_law(curve)
    assert law is not None
    assert (law.floor, law.factor, law.exponent) == pytest.approx((0.05, 2, 0.5), abs=1e-6)


def test_an_accuracy_that_does_not_grow_has_no_law() -> None:
    curve = tuple(CurvePoint(n / 1000, n, 0.9 - n / 10_000) for n in (100, 250, 500, 1000))
    assert fit_power_law(curve) is None
