"""assign_splits: disjoint, complete, stratified, duplicates on one side, independent of order."""

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hpo.data.split import Assignment, SplitOptions, assign_splits, check_classes, count_leaking
from hpo.errors import DataError, UsageError

DEFAULT = SplitOptions()


def deal(labels, given_parts=None, groups=None, options=DEFAULT) -> Assignment:
    labels = np.asarray(labels, dtype=np.int64)
    return assign_splits(
        labels,
        given_parts or [None] * len(labels),
        groups or [f"image {row}" for row in range(len(labels))],
        classes=[f"class {number}" for number in range(labels.max() + 1)],
        options=options,
    )


class_sizes = st.lists(st.integers(2, 60), min_size=2, max_size=5).filter(lambda sizes: max(sizes) >= 3)
seeds = st.integers(0, 2**31)
fractions = st.tuples(st.floats(0.05, 0.4), st.floats(0, 0.4))


@given(class_sizes, seeds, fractions)
def test_parts_are_stratified_to_one_image(sizes, seed, shares):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    codes = deal(labels, options=SplitOptions(seed, *shares)).codes
    assert set(codes.tolist()) <= {0, 1, 2}
    for number, size in enumerate(sizes):
        train, val, test = np.bincount(codes[labels == number], minlength=3)
        assert train + val + test == size
        assert train >= 1
        assert val >= (1 if size >= 3 else 0)
        assert abs(val - size * shares[0]) <= 1
        assert abs(test - size * shares[1]) <= 1


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 15)), min_size=8, max_size=80), seeds)
def test_duplicates_stay_on_one_side_even_with_two_labels(images, seed):
    labels, groups = [label for label, _ in images], [f"group {group}" for _, group in images]
    counts = np.bincount(labels, minlength=3)
    assume((counts >= 2).all())
    by_group = defaultdict(set)
    for label, group in images:
        by_group[group].add(label)
    pure = [next(iter(owners)) for owners in by_group.values() if len(owners) == 1]
    assume(any(pure.count(label) >= 3 for label in range(3)))
    codes = deal(labels, groups=groups, options=SplitOptions(seed)).codes
    sides = defaultdict(set)
    for group, code in zip(groups, codes.tolist(), strict=True):
        sides[group].add(code)
    assert all(len(codes) == 1 for codes in sides.values())
    assert all((codes[np.array(labels) == label] == 0).any() for label in range(3))


@given(class_sizes, seeds, st.randoms())
def test_the_order_of_the_images_plays_no_role(sizes, seed, random):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    groups = [f"image {row // 2 if labels[row] == labels[row // 2 * 2] else row}" for row in range(len(labels))]
    order = list(range(len(labels)))
    random.shuffle(order)
    options = SplitOptions(seed)
    straight = deal(labels, groups=groups, options=options).codes
    shuffled = deal(labels[order], groups=[groups[row] for row in order], options=options).codes
    assert np.array_equal(shuffled, straight[order])


def test_another_seed_gives_another_split():
    labels = np.repeat([0, 1], 100)
    first, again, other = (deal(labels, options=SplitOptions(seed)).codes for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_rows_of_a_part_are_its_positions():
    assignment = deal(np.repeat([0, 1], 50))
    rows = np.concatenate([assignment.rows(part) for part in ("train", "val", "test")])
    assert sorted(rows.tolist()) == list(range(100))
    assert assignment.rows("val").dtype == np.int64
    assert [len(assignment.rows(part)) for part in ("train", "val", "test")] == [80, 10, 10]


def test_a_given_split_is_obeyed():
    parts = ["train", "val", "test", "train"] * 5
    assignment = deal([0, 0, 0, 0, 1, 1, 1, 1] * 2 + [0, 1, 0, 1], parts)
    assert [("train", "val", "test")[code] for code in assignment.codes] == parts
    assert assignment.text == "as given"


@pytest.mark.parametrize(
    ("there", "options", "text"),
    [
        (("train", "val"), SplitOptions(3), "as given, test from train (10 %), seed 3"),
        (("train", "test"), SplitOptions(3), "as given, val from train (10 %), seed 3"),
        (("train",), SplitOptions(3), "as given, val from train (10 %), test from train (10 %), seed 3"),
        (("train", "val"), SplitOptions(3, 0.1, 0), "as given"),
        ((None,), SplitOptions(3), "stratified 80/10/10, seed 3"),
        ((None,), SplitOptions(0, 0.15, 0), "stratified 85/15, seed 0"),
    ],
)
def test_missing_parts_are_made_from_train_and_described(there, options, text):
    given_parts = [there[row % len(there)] for row in range(120)]
    assignment = deal(np.repeat([0, 1], 60), given_parts, options=options)
    assert assignment.text == text
    for code, part in zip(assignment.codes.tolist(), given_parts, strict=True):
        assert part in (None, "train") or ("train", "val", "test")[code] == part
    assert (len(assignment.rows("test")) > 0) == (options.test_fraction > 0)


def test_a_group_larger_than_the_quota_can_still_validate():
    groups = [f"copy {row // 10}" for row in range(50)] + [f"other {row}" for row in range(50)]
    assignment = deal(np.repeat([0, 1], 50), groups=groups)
    assert np.bincount(assignment.codes[:50], minlength=3).tolist() == [30, 10, 10]


@pytest.mark.parametrize(
    ("labels", "classes", "rule"),
    [
        ([0, 0, 0], ["cat"], "the only class is 'cat', but two are needed"),
        ([0, 0, 0, 1], ["cat", "dog"], "class 'dog' has one readable image, but needs 2"),
        ([0, 0, 0], ["cat", "dog"], "class 'dog' has no readable image, but needs 2"),
    ],
)
def test_classes_too_small_are_named(labels, classes, rule):
    with pytest.raises(DataError, match=rule):
        check_classes(classes, np.array(labels))


def test_a_class_that_the_given_split_keeps_from_training_is_named():
    with pytest.raises(DataError, match="class 'class 1' has no image to train on: the given split puts all 2"):
        deal([0, 0, 0, 1, 1], ["train", "train", "val", "val", "test"])


def test_nothing_to_validate_on_is_refused():
    with pytest.raises(DataError, match="no image can be held out to validate on"):
        deal([0, 0, 1, 1])


@pytest.mark.parametrize("shares", [(0, 0.1), (1, 0), (-0.1, 0.1), (0.1, 0.9), (0.1, -0.1), (float("nan"), 0.1)])
def test_fractions_out_of_range_are_refused(shares):
    with pytest.raises(UsageError, match="fraction is"):
        SplitOptions(0, *shares)


def test_leaking_counts_duplicates_in_a_later_part():
    given_parts = ["train", "train", "val", "test", "val", "val"]
    assert count_leaking(given_parts, ["a", "a", "a", "a", "b", "b"]) == 2
    assert count_leaking([None, None], ["a", "a"]) == 0


@pytest.mark.parametrize(("there", "made"), [("test", "val"), ("val", "test")])
def test_a_copy_of_a_given_image_is_never_dealt_into_another_part_that_is_held_out(there, made):
    # 80 images to train on; 40 of them have an exact copy in the given part
    groups = [f"image {number}" for number in range(80)] + [f"image {number}" for number in range(40)]
    labels = [number % 2 for number in range(120)]
    assignment = deal(labels, [None] * 80 + [there] * 40, groups)
    moved = {groups[row] for row in assignment.rows(made)}
    assert moved
    assert not moved & set(groups[80:])


def test_the_description_has_the_real_shares_if_classes_are_too_small():
    assignment = deal(np.repeat([0, 1], 4))
    assert len(assignment.rows("test")) == 0
    assert "80/10/10" not in assignment.text
    assert assignment.text == "stratified 75/25/0, seed 0, no test image of 'class 0', 'class 1'"
    (note,) = assignment.notes
    assert note.startswith("no test image of classes 'class 0', 'class 1': too few different images")


@pytest.mark.parametrize(("part", "option"), [("val", "--val-fraction"), ("test", "--test-fraction")])
def test_classes_without_images_in_a_part_are_named(part, option):
    smallest = 2 if part == "val" else 3
    assignment = deal([0] * 40 + [1] * smallest)
    notes = [note for note in assignment.notes if option in note]
    assert len(notes) == 1
    assert "class 'class 1'" in notes[0]
    assert f"no {part} image of 'class 1'" in assignment.text


def test_a_given_part_without_a_class_is_named():
    parts = ["train"] * 10 + ["val", "val"] * 2 + ["test", "test"]
    assignment = deal([0] * 5 + [1] * 5 + [0, 1, 0, 1] + [0, 0], parts)
    assert assignment.text == "as given"
    assert assignment.notes == ("no test image of class 'class 1': the given part has none",)


def test_parts_that_were_not_requested_are_not_noted_as_lacking():
    assert deal(np.repeat([0, 1], 4), options=SplitOptions(0, 0.25, 0)).notes == ()


@given(class_sizes, seeds, fractions)
def test_every_class_without_a_held_out_image_is_in_the_words(sizes, seed, shares):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    assignment = deal(labels, options=SplitOptions(seed, *shares))
    for code, part in enumerate(("train", "val", "test")):
        counts = np.bincount(labels[assignment.codes == code], minlength=len(sizes))
        lacks = bool((counts == 0).any()) and (part != "test" or shares[1] > 0)
        assert (f"no {part} image of" in assignment.text) == lacks


def test_conflicting_labels_are_named_if_they_prevent_validation_images():
    labels = np.array([0, 0, 0, 1, 1, 1])
    groups = ["x", "y", "z", "x", "y", "z"]
    names = ["a/0.jpg", "a/1.jpg", "a/2.jpg", "b/0.jpg", "b/1.jpg", "b/2.jpg"]
    with pytest.raises(DataError) as caught:
        assign_splits(labels, [None] * 6, groups, classes=["a", "b"], options=DEFAULT, names=names)
    assert "3 images are there under two classes: a/0.jpg and b/0.jpg, a/1.jpg and b/1.jpg" in str(caught.value)
    assert "no class has 3 different images" not in str(caught.value)
