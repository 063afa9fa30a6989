"""Accuracy under families of corruptions, and errors relative to those of a baseline."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo.corruptions import SEEN
from hpo.data.dataset import Part
from hpo.data.synthetic import cells_arrays
from hpo.evaluation.corrupted_copy import Condition, corrupted_copy
from hpo.evaluation.intervals import Score
from hpo.evaluation.robustness import (
    FamilyScore,
    RelativeErrors,
    Robustness,
    mean_accuracies,
    packed_bits,
    relative_errors,
    relative_to_clean,
    sample_of,
    unpacked_errors,
)
from hpo.unseen_corruptions import UNSEEN

accuracies = st.dictionaries(
    st.sampled_from(["a", "b", "c"]),
    st.fixed_dictionaries({severity: st.floats(0, 1) for severity in range(1, 6)}),
    min_size=1,
)


@given(accuracies)
def test_a_model_beside_itself_has_errors_of_one(found):
    ratios = relative_errors(found, found)
    assert all(value is None or value == pytest.approx(1) for value in ratios.kinds.values())
    assert ratios.undefined == tuple(kind for kind, by in found.items() if sum(1 - one for one in by.values()) == 0)
    assert (ratios.mean is None) == (len(ratios.undefined) == len(found))


def test_errors_are_summed_over_the_severities_before_the_division():
    found, baseline = {"blur": {1: 0.9, 5: 0.5}, "hue": {1: 0.8}}, {"blur": {1: 0.8, 5: 0.6}, "hue": {1: 0.2}}
    ratios = relative_errors(found, baseline)
    assert ratios.kinds == {"blur": pytest.approx(0.6 / 0.6), "hue": pytest.approx(0.2 / 0.8)}
    assert ratios.mean == pytest.approx(0.625)


def test_only_what_both_were_measured_under_counts_and_nothing_is_divided_by_zero():
    ratios = relative_errors({"a": {1: 0.5, 2: 0.0}, "b": {1: 0.5}, "c": {1: 0.5}}, {"a": {1: 0.5}, "b": {1: 1.0}})
    assert ratios.kinds == {"a": 1.0, "b": None}
    assert (ratios.mean, ratios.undefined) == (1.0, ("b",))
    assert relative_errors({"a": {1: 0.5}}, {}).mean is None


def test_errors_relative_to_the_clean_error():
    score = Score.of(0.7, 20)
    found = FamilyScore("unseen", 1, score, (Condition("motion", 1, 10, 8), Condition("motion", 5, 10, 6)))
    assert relative_to_clean(found, 0.9).kinds == {"motion": pytest.approx(3)}
    assert relative_to_clean(found, 1.0).mean is None


def test_a_family_is_scored_by_kind_and_severity(tmp_path):
    images, labels = cells_arrays(10, 16, seed=1)
    copy = corrupted_copy(Part(images, np.arange(10), labels, ["x"] * 10), tmp_path, family=UNSEEN)
    assert len(copy) == 10 * len(UNSEEN.kinds)
    right = copy.corruption != copy.kinds.index("defocus")
    found = FamilyScore.of(UNSEEN, copy, right)
    assert list(found.by_kind) == list(UNSEEN.kinds)
    assert set(found.accuracies["defocus"].values()) == {0.0}
    assert found.accuracy.value == pytest.approx(14 / 15)
    assert found.accuracy.n <= len(copy)
    result = Robustness(10, 10, Score.of(1.0, 10), (found,))
    assert result.family("unseen") is found
    assert result.family("seen") is None
    assert result.relative_errors(Robustness(10, 10, Score.of(1.0, 10), ())) == {}
    assert result.relative_errors(result)["unseen"].kinds["defocus"] == 1


def test_each_family_has_a_file_of_its_own(tmp_path):
    images, labels = cells_arrays(8, 16, seed=1)
    part = Part(images, np.arange(8), labels, ["x"] * 8)
    for family in (SEEN, UNSEEN, SEEN):
        assert len(corrupted_copy(part, tmp_path, family=family)) == 8 * len(family.kinds)
    assert len(list(tmp_path.rglob("*.npy"))) == 2


def test_a_large_part_is_sampled_always_alike(monkeypatch):
    monkeypatch.setattr("hpo.evaluation.robustness.MOST_IMAGES", 5)
    part = Part(np.zeros((9, 2, 2, 3), np.uint8), np.arange(9), np.arange(9), [str(row) for row in range(9)])
    first, second = sample_of(part), sample_of(part)
    assert len(first) == 5
    assert list(first.names) == list(second.names) == [str(label) for label in first.labels]
    assert sample_of(first) is first


def test_the_mean_over_seeds():
    assert mean_accuracies([{"a": {1: 0.2}}, {"a": {1: 0.4}}]) == {"a": {1: pytest.approx(0.3)}}
    assert mean_accuracies([]) == {}


def errors(kinds: int, images: int, share: float, seed: int) -> np.ndarray:
    return (np.random.default_rng(seed).random((kinds, images)) < share).astype(float)


def ratios_of(found: np.ndarray, baseline: np.ndarray) -> RelativeErrors:
    """Return relative errors with their interval, from errors by kind and image."""
    tables = ({f"k{k}": {1: 1 - row.mean()} for k, row in enumerate(one)} for one in (found, baseline))
    return relative_errors(*tables).with_interval(found, baseline)


def test_the_interval_of_relative_errors_holds_the_mean_and_is_paired():
    baseline = errors(3, 400, 0.3, seed=0)
    found = baseline * (np.random.default_rng(1).random(baseline.shape) < 0.8)  # a fifth of the errors is gone
    paired, apart = ratios_of(found, baseline), ratios_of(errors(3, 400, 0.24, seed=2), baseline)
    assert paired.interval is not None
    assert apart.interval is not None
    assert paired.interval[0] < paired.mean < paired.interval[1] < 1
    width, other = (high - low for low, high in (paired.interval, apart.interval))
    assert width < 0.7 * other, "errors on the same images say more about the difference"
    assert ratios_of(baseline, baseline).interval == (1.0, 1.0)
    assert paired.to_dict()["interval"] == list(paired.interval)


def test_no_interval_without_the_images_or_for_other_images():
    baseline = errors(2, 50, 0.3, seed=0)
    plain = relative_errors({"a": {1: 0.5}, "b": {1: 0.5}}, {"a": {1: 0.7}, "b": {1: 0.7}})
    for one, other in ((None, baseline), (baseline, None), (baseline, errors(2, 51, 0.3, seed=0))):
        assert plain.with_interval(one, other).interval is None


@given(st.integers(1, 4), st.integers(1, 40), st.integers(0, 9))
def test_which_images_are_right_comes_back_from_a_record(kinds, images, seed):
    wrong = errors(kinds, images, 0.4, seed)
    text = packed_bits(wrong.ravel() == 0)
    assert np.array_equal(unpacked_errors(text, kinds, images), wrong)
    assert unpacked_errors(text, kinds, images + 16) is None
    assert unpacked_errors("?", kinds, images) is None


def test_the_errors_of_a_measured_family_are_those_of_its_copy(tmp_path):
    images, labels = cells_arrays(9, 16, seed=0)
    copy = corrupted_copy(Part(images, np.arange(9), labels, [str(n) for n in range(9)]), tmp_path)
    correct = np.random.default_rng(0).random(len(copy)) < 0.5
    found = FamilyScore.of(SEEN, copy, correct)
    assert np.array_equal(found.errors, 1.0 - correct.reshape(len(SEEN.kinds), 9))
