"""A selection is never worse than the best model on its images, and is measured on others."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hpo.delivery.selection import (
    Chosen,
    compare,
    cross_checked,
    greedy_ensemble,
    greedy_soup,
    halves,
    mean_of,
    merit,
    ranked,
    weights_of,
)
from hpo.evaluation.calibration import probabilities

CLASSES = 3


@st.composite
def libraries(draw):
    """Labels (n,) and the probabilities (k, n, C) of k models."""
    k, n = draw(st.integers(1, 5)), draw(st.integers(4, 30))
    labels = draw(arrays(np.int64, n, elements=st.integers(0, CLASSES - 1)))
    logits = draw(arrays(np.float32, (k, n, CLASSES), elements=st.floats(-9, 9, width=32)))
    return labels, probabilities(logits)


@settings(max_examples=60, deadline=None)
@given(libraries(), st.sampled_from(["accuracy", "balanced_accuracy", "macro_f1"]))
def test_an_ensemble_is_never_worse_than_its_best_member(some, metric):
    labels, members = some
    picks = greedy_ensemble(labels, members, metric, rounds=8)
    alone = merit(labels, members[ranked(labels, members, metric)[0]], metric)
    together = merit(labels, mean_of(members, picks), metric)
    assert together[0] >= alone[0] - 1e-12
    assert picks[0] == ranked(labels, members, metric)[0], "it starts from the best"


@given(libraries())
def test_weights_are_shares_heaviest_first(some):
    labels, members = some
    weights = weights_of(greedy_ensemble(labels, members, "accuracy", rounds=6))
    assert sum(weights.values()) == pytest.approx(1)
    assert list(weights.values()) == sorted(weights.values(), reverse=True)


def test_two_models_with_different_errors_are_joined():
    labels = np.array([0, 1, 2, 0])
    sure, wrong = 0.8, 0.45
    first, second = (np.full((4, 3), 0.1) for _ in range(2))
    first[np.arange(4), labels] = second[np.arange(4), labels] = sure
    first[0], second[1] = [wrong, 0.55, 0], [0, wrong, 0.55]
    members = np.stack([first, second])
    picks = greedy_ensemble(labels, members, "accuracy")
    assert set(picks) == {0, 1}
    found = compare(labels, members[0], mean_of(members, picks), "accuracy")
    assert (found.best, found.joined, found.gained, found.lost) == (0.75, 1.0, 1, 0)


def test_a_soup_takes_ingredients_that_do_not_make_it_worse():
    worth = {(2,): (0.8, 0), (2, 0): (0.8, 0), (2, 0, 1): (0.7, 0), (2, 0, 3): (0.9, 0)}
    assert greedy_soup([2, 0, 1, 3], lambda ingredients: worth[ingredients]) == (2, 0, 3)
    assert greedy_soup([5, 1], lambda ingredients: (1 / len(ingredients), 0)) == (5,)


@given(arrays(np.int64, st.integers(2, 60), elements=st.integers(0, CLASSES - 1)), st.integers(0, 9))
def test_halves_divide_every_class_evenly(labels, seed):
    first, second = halves(labels, seed)
    assert np.array_equal(first, ~second)
    assert abs(int(first.sum()) - int(second.sum())) <= 1
    for label in range(CLASSES):
        assert abs(int((labels[first] == label).sum()) - int((labels[second] == label).sum())) <= 1


def test_a_cross_check_measures_each_image_by_the_choice_of_the_others():
    labels = np.repeat(np.arange(CLASSES), 8)
    right = np.eye(CLASSES)[labels]
    wrong = np.roll(right, 1, axis=1)
    seen = []

    def choose(rows):
        """Return a joint model that knows the labels it was chosen by, and no other."""
        seen.append(rows)
        joined = np.where(rows[:, None], right, wrong)
        return Chosen(wrong, joined)

    found, unseen = cross_checked(labels, "accuracy", choose)
    assert (found.n, found.best, found.joined) == (len(labels), 0, 0), "nothing that was learnt by heart counts"
    assert np.array_equal(unseen, wrong), "nor does it in the calibration"
    assert np.array_equal(seen[0], ~seen[1])
    assert cross_checked(labels[:1], "accuracy", choose) is None
