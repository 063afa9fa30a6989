from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo.evaluation.intervals import Score, clustered, plus_minus
from hpo.evaluation.metrics import wilson


@given(correct=st.integers(0, 500), more=st.integers(0, 500))
def test_a_share_has_the_wilson_interval(correct: int, more: int) -> None:
    n = correct + more + 1
    score = Score.of(correct / n, n)
    assert score.interval == pytest.approx(wilson(correct, n), abs=1e-12)
    assert score.spread is None


def test_pooled_seeds_have_a_mean_and_a_spread_but_the_same_n() -> None:
    pooled = Score.pooled([Score.of(0.9, 100), None, Score.of(0.8, 100)])
    assert pooled is not None
    assert (pooled.value, pooled.n) == (pytest.approx(0.85), 100)
    assert pooled.spread == pytest.approx(0.0707, abs=1e-4)
    assert pooled.interval == pytest.approx(wilson(85, 100))
    assert Score.pooled([None]) is None


def test_fully_correlated_copies_count_as_one_image() -> None:
    right = np.random.default_rng(0).random(100) < 0.7
    copies = clustered(np.tile(right, 10), np.tile(np.arange(100), 10))
    assert copies.n == pytest.approx(100, rel=0.02)
    assert copies.interval == pytest.approx(Score.of(float(right.mean()), 100).interval, abs=1e-9)


def test_independent_copies_all_count() -> None:
    right = np.random.default_rng(0).random(2000) < 0.7
    assert clustered(right, np.tile(np.arange(200), 10)).n > 1500
    assert clustered(right, np.arange(2000)).n == 2000


@pytest.mark.parametrize("value", [True, False])
def test_without_variance_n_is_the_number_of_originals(value: bool) -> None:
    score = clustered(np.full(50, value), np.tile(np.arange(5), 10))
    assert (score.value, score.n) == (float(value), 5)
    assert score.interval == pytest.approx(wilson(5 * value, 5))


@given(st.integers(1, 30), st.integers(1, 10), st.integers(0, 2**32 - 1))
def test_the_effective_number_lies_between_originals_and_copies(originals: int, copies: int, seed: int) -> None:
    right = np.random.default_rng(seed).random(originals * copies) < 0.6
    score = clustered(right, np.tile(np.arange(originals), copies))
    assert originals <= score.n <= originals * copies
    assert 0 <= score.interval[0] <= score.value <= score.interval[1] <= 1


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (None, "0.9827"), (0.0004, "0.9827"), (0.0005, "0.9827 ± 0.0005"), (0.0034, "0.9827 ± 0.0034"),
        (0.00996, "0.983 ± 0.010"), (0.0275, "0.983 ± 0.028"), (0.1, "0.98 ± 0.10"),
    ],
)  # fmt: skip
def test_a_value_is_shown_as_precisely_as_its_error_allows(error: float | None, text: str) -> None:
    assert plus_minus(0.98273, error) == text
