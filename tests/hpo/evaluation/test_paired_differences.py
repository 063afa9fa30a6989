from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_rel

from hpo.evaluation.intervals import contribution, interaction, paired

shares = st.floats(0, 1)


@given(st.lists(st.tuples(shares, shares), min_size=2, max_size=8))
def test_the_interval_is_that_of_the_paired_t_test(pairs: list[tuple[float, float]]) -> None:
    whole, without = dict(enumerate(a for a, _ in pairs)), dict(enumerate(b for _, b in pairs))
    found = contribution(whole, without)
    assert found is not None
    differences = np.array([a - b for a, b in pairs])
    assert found.mean == pytest.approx(differences.mean())
    if differences.std(ddof=1) > 1e-6:
        assert found.interval is not None
        expected = ttest_rel(*zip(*pairs, strict=True)).confidence_interval(0.95)
        assert found.interval == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_only_common_seeds_count() -> None:
    found = contribution({0: 0.9, 1: 0.8, 2: 0.7}, {1: 0.5, 2: 0.5})
    assert found is not None
    assert found.values == pytest.approx((0.3, 0.2))
    assert contribution({0: 0.9}, {1: 0.5}) is None


def test_one_seed_gives_no_interval_and_the_verdict_open() -> None:
    found = paired([0.4])
    assert found is not None
    assert (found.mean, found.interval, found.verdict) == (0.4, None, "open")


@pytest.mark.parametrize("values", [[0.02] * 3, [0.1 + 0.2, 0.3, 0.3], [0.0, 0.0]])
def test_equal_differences_give_no_interval_and_the_verdict_open(values: list[float]) -> None:
    found = paired(values)
    assert found is not None
    assert (found.mean, found.interval, found.verdict) == (pytest.approx(values[1]), None, "open")


@pytest.mark.parametrize(
    ("values", "verdict"), [([0.1, 0.11, 0.12], "more"), ([-0.1, -0.11, -0.12], "less"), ([-0.1, 0.3, 0.1], "open")]
)
def test_a_verdict_needs_an_interval_without_0(values: list[float], verdict: str) -> None:
    found = paired(values)
    assert found is not None
    assert found.verdict == verdict


@given(st.lists(st.tuples(shares, shares, shares, shares), min_size=1, max_size=5))
def test_an_interaction_is_the_joint_contribution_minus_the_sum(runs: list[tuple[float, float, float, float]]) -> None:
    whole, one, other, neither = (dict(enumerate(column)) for column in zip(*runs, strict=True))
    found = interaction(whole, one, other, neither)
    parts = [contribution(whole, without) for without in (one, other, neither)]
    assert found is not None
    first, second, joint = (part.mean for part in parts if part is not None)
    assert found.mean == pytest.approx(joint - (first + second), abs=1e-12)


def test_parts_that_compensate_for_each_other_have_a_positive_interaction() -> None:
    found = interaction({0: 0.9}, {0: 0.89}, {0: 0.89}, {0: 0.5})
    assert found is not None
    assert found.mean == pytest.approx(0.38)
