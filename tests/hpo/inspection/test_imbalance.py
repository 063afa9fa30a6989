"""Counts of classes, and what each remedy does, against the training code itself."""

import numpy as np
import pytest

from hpo.inspection.imbalance import measure_imbalance
from hpo.training.loss import class_weights

from .inspected import inspected, pictures

LABELS = np.repeat([0, 1, 2], [20, 8, 2])


@pytest.fixture(scope="module")
def data():
    return inspected(pictures(30, size=8), LABELS)


def test_counts_shares_and_effective_numbers(data):
    found = measure_imbalance(data)
    assert [one.count for one in found.classes] == [20, 8, 2]
    assert found.ratio == 10
    assert found.majority == pytest.approx(2 / 3)
    assert found.classes[2].effective == pytest.approx((1 - 0.999**2) / 0.001)
    assert [one.name for one in found.few] == ["class 1", "class 2"]
    assert "very uneven" in found.verdict()


def test_weights_are_those_of_the_loss(data):
    found = measure_imbalance(data)
    assert [one.weight_inverse for one in found.classes] == pytest.approx(class_weights(LABELS, 3, "inverse"))
    assert [one.weight_effective for one in found.classes] == pytest.approx(class_weights(LABELS, 3, "effective"))


def test_balanced_sampling_and_oversampling_in_images(data):
    found = measure_imbalance(data)
    assert [one.balanced_draws for one in found.classes] == pytest.approx([0.5, 1.25, 5])
    assert [one.added for one in found.classes] == [0, 12, 18]
    assert [one.shown for one in found.classes] == pytest.approx([1, 2.5, 10])
    assert [one.added for one in measure_imbalance(data, 50).classes] == [30, 42, 48]


def test_only_the_train_part_counts():
    given = ["train"] * 10 + ["test"] * 10 + ["train"] * 10
    found = measure_imbalance(inspected(pictures(30, size=8), LABELS, given=given))
    assert [one.count for one in found.classes] == [10, 8, 2]
    assert found.part == "train"


def test_equal_classes_need_no_remedy():
    found = measure_imbalance(inspected(pictures(30, size=8), np.arange(30) % 3))
    assert "no remedy is needed" in found.verdict()


def test_a_class_without_images_has_zeros():
    found = measure_imbalance(inspected(pictures(30, size=8), LABELS, classes=("a", "b", "c", "d")))
    assert found.classes[3].count == found.classes[3].added == 0
    assert found.classes[3].weight_inverse == 0
    assert found.ratio == 10
