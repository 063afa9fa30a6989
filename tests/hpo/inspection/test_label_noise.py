"""The estimate of wrong labels: calibrated where labels were exchanged, nothing where the classifier errs by itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpo.inspection.label_noise import estimate_label_noise


def drawn(seed: int, wrong: float, classes: int = 5, count: int = 4000, sure: float = 1.0) -> tuple[np.ndarray, ...]:
    """Return probabilities, labels drawn by them of which some are exchanged, and which these are.

    The probabilities that are returned are those of the labels to the power `sure`: 2 is a classifier too sure.
    """
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 4, (count, classes))
    true = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (true.cumsum(axis=1) < rng.random((count, 1))).sum(axis=1).clip(0, classes - 1)
    some = rng.random(count) < wrong
    given_labels = np.where(some, (labels + rng.integers(1, classes, count)) % classes, labels)
    said = np.exp(sure * logits)
    return said / said.sum(axis=1, keepdims=True), given_labels, some


@pytest.mark.parametrize("sure", [0.7, 1.0, 2.0])
@pytest.mark.parametrize("wrong", [0.02, 0.1])
def test_the_probabilities_are_frequencies(wrong: float, sure: float) -> None:
    probabilities, labels, some = drawn(1, wrong, sure=sure)
    noise = estimate_label_noise(probabilities, labels)
    assert noise.rate == pytest.approx(wrong, rel=0.3)
    assert noise.sharpness == pytest.approx(1 / sure, rel=0.2)
    assert noise.probability.sum() == pytest.approx(some.sum(), rel=0.3)
    likely = noise.probability >= 0.5
    assert likely.sum() > 20
    assert some[likely].mean() == pytest.approx(noise.probability[likely].mean(), abs=0.12)


@pytest.mark.parametrize("classes", [2, 5])
def test_a_classifier_that_is_too_sure_is_not_taken_for_wrong_labels(classes: int) -> None:
    probabilities, labels, _ = drawn(2, 0.0, classes, sure=3.0)
    noise = estimate_label_noise(probabilities, labels)
    assert noise.rate < 0.003
    assert (noise.probability >= 0.5).sum() <= 2


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 30), st.integers(1, 6))
def test_any_probabilities_give_probabilities(seed: int, count: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.full(classes, 0.05), count)
    noise = estimate_label_noise(probabilities, rng.integers(0, classes, count))
    assert noise.probability.shape == (count,)
    assert ((noise.probability >= 0) & (noise.probability <= 1)).all()
    assert 0 <= noise.rate <= 1


def test_no_labels_at_all() -> None:
    assert estimate_label_noise(np.empty((0, 3)), np.empty(0, np.int64)).rate == 0
