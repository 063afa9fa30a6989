"""Leaks between given parts: which images, what they are worth, and the moves that end them."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpo.inspection.copies import Copies, CopyGroup, LabelAgreement
from hpo.inspection.leaks import find_leaks

from .inspected import inspected, pictures

IMAGES = pictures(60, size=8)
NO_AGREEMENT = LabelAgreement(0, 0.0, 0.1)


def copies_of(data, *groups, turned=()):
    """Groups of copies by their rows; rows in `turned` are turned against the first of their group."""
    group_of = np.arange(len(data))
    for rows in groups:
        group_of[list(rows)] = rows[0]
    made = []
    for rows in groups:
        turns = tuple(int(row in turned) for row in rows)
        kinds = tuple("turned" if turn else "near" for turn in turns)
        made.append(CopyGroup(np.array(rows), kinds, turns, (0.99,) * len(rows)))
    return Copies(tuple(made), group_of, NO_AGREEMENT)


def data_of(parts, labels=None, images=IMAGES):
    labels = np.arange(len(parts)) % 2 if labels is None else labels
    return inspected(images[: len(parts)], labels, given=parts)


def test_data_without_parts_have_no_leak():
    data = inspected(IMAGES, np.arange(60) % 2)
    found = find_leaks(data, copies_of(data, (0, 1)))
    assert not found.given
    assert found.findings == ()


def test_copies_inside_one_part_are_no_leak():
    data = data_of(["train"] * 8 + ["test"] * 4)
    found = find_leaks(data, copies_of(data, (0, 2), (8, 10)))
    assert found.given
    assert found.groups == ()
    assert [len(pair.rows) for pair in found.pairs] == [0]


def test_a_pair_goes_to_the_part_that_measures_last():
    data = data_of(["train"] * 8 + ["test"] * 4)
    found = find_leaks(data, copies_of(data, (0, 8)))
    assert found.moves == {data.names[0]: "test"}
    assert [finding.file for finding in found.findings] == [data.names[0], data.names[8]]
    assert {finding.action for finding in found.findings} == {"keep"}
    assert "of train, and also in test as class 0/8.png" in found.findings[0].reason
    assert found.findings[0].reason.endswith("with --fix-leaks it goes to test")
    assert found.findings[1].reason.endswith("it stays in test")


def test_a_group_goes_where_most_of_it_is():
    data = data_of(["train"] * 8 + ["test"] * 4)
    found = find_leaks(data, copies_of(data, (0, 2, 4, 8)))
    assert found.moves == {data.names[8]: "train"}


def test_a_test_part_does_not_lose_more_than_half():
    data = data_of(["train"] * 8 + ["test"] * 4)
    found = find_leaks(data, copies_of(data, (0, 1, 8), (2, 3, 9), (4, 5, 10)))
    assert set(found.moves.values()) == {"test"}
    assert len(found.moves) == 6


def test_kinds_are_those_between_the_parts():
    images = IMAGES.copy()
    images[8] = images[1]
    data = data_of(["train"] * 8 + ["test"] * 4, images=images)
    found = find_leaks(data, copies_of(data, (0, 1, 8), (2, 9), (4, 10), turned=(9,)))
    (pair,) = found.pairs
    assert pair.kinds == {"exact-bytes": 1, "turned": 1, "near": 1}
    assert (pair.total, pair.share) == (4, 0.75)


def test_another_label_is_counted():
    data = data_of(["train"] * 8 + ["test"] * 4, labels=np.array([0] * 8 + [1] * 4))
    (pair,) = find_leaks(data, copies_of(data, (0, 8))).pairs
    assert pair.other_label == 1


@pytest.mark.parametrize(("measured", "least"), [(1.0, 1.0), (0.9, 0.8), (0.5, 0.0), (0.2, 0.0)])
def test_the_bound_of_the_honest_figure(measured, least):
    data = data_of(["train"] * 8 + ["test"] * 4)
    (pair,) = find_leaks(data, copies_of(data, (0, 8), (1, 9))).pairs
    assert pair.share == 0.5
    assert pair.least_accuracy(measured) == pytest.approx(least)
    assert pair.most_accuracy(measured) == pytest.approx(min(1.0, 2 * measured))


def test_the_estimate_leaves_leaked_images_out():
    labels = np.array([0, 1] * 4 + [0, 1, 0, 1])
    data = data_of(["train"] * 8 + ["test"] * 4, labels)
    points = np.zeros((12, 2), np.float32)
    points[:8, 0] = labels[:8]
    points[8:, 0] = [0, 1, 1, 0]  # the copies lie on their originals, the others with the wrong class
    found = find_leaks(data, copies_of(data, (0, 8), (1, 9)), points)
    estimate = found.estimates["test"]
    assert (estimate.all_images, estimate.clean_images) == (0.5, 0.0)
    assert (estimate.n, estimate.n_clean) == (4, 2)


@given(seed=st.integers(0, 10_000), count=st.integers(4, 60))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_moves_end_all_leaks(seed, count):
    generator = np.random.default_rng(seed)
    parts = generator.choice(["train", "val", "test"], count, p=[0.6, 0.2, 0.2]).tolist()
    data = data_of(parts)
    order = generator.permutation(count)
    groups = [tuple(order[i : i + 3].tolist()) for i in range(0, count - 3, 4)]
    found = find_leaks(data, copies_of(data, *groups))
    after = [found.moves.get(name, part) for name, part in zip(data.names, parts, strict=True)]
    for rows in groups:
        assert len({after[row] for row in rows}) == 1
    assert all(finding.file in data.names for finding in found.findings)
