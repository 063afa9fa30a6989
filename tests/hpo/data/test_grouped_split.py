"""assign_parts with groups and folds: groups never straddle, every image validates once, given parts are kept."""

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpo.data.grouped_split import ImageRows, assign_parts
from hpo.data.grouping import Grouping
from hpo.data.split import Assignment, SplitOptions
from hpo.errors import DataError, UsageError


def split(labels, values=None, *, copies=None, parts=None, **options) -> Assignment:
    labels = np.asarray(labels, dtype=np.int64)
    names = [f"image {row}" for row in range(len(labels))]
    rows = ImageRows(
        labels, parts or [None] * len(labels), copies or names, names, [f"c{n}" for n in range(labels.max() + 1)]
    )
    grouping = Grouping("patient", tuple(map(str, values)), "patient") if values is not None else None
    return assign_parts(rows, SplitOptions(**options), grouping)


# Each class appears in each of the first groups, so that it can always be trained on.
@st.composite
def grouped_images(draw):
    groups, classes = draw(st.integers(6, 15)), draw(st.integers(2, 4))
    base = [(label, group) for label in range(classes) for group in range(groups)]
    more = draw(st.lists(st.tuples(st.integers(0, classes - 1), st.integers(0, groups - 1)), max_size=60))
    images = draw(st.permutations(base + more))
    return [label for label, _ in images], [group for _, group in images]


@settings(max_examples=50, deadline=None)
@given(grouped_images(), st.integers(0, 1000))
def test_no_group_straddles_parts_that_are_made(images, seed):
    labels, values = images
    found = split(labels, values, seed=seed, val_fraction=0.2, test_fraction=0.2)
    sides = defaultdict(set)
    for value, code in zip(values, found.codes.tolist(), strict=True):
        sides[value].add(code)
    assert all(len(codes) == 1 for codes in sides.values())
    assert set(found.codes.tolist()) == {0, 1, 2}
    assert np.bincount(np.array(labels)[found.codes == 0], minlength=max(labels) + 1).all()


@settings(max_examples=50, deadline=None)
@given(grouped_images(), st.integers(2, 4), st.integers(0, 1000))
def test_every_image_that_does_not_test_validates_once_and_no_group_straddles_folds(images, folds, seed):
    labels, values = images
    found = split(labels, values, seed=seed, folds=folds)
    assert found.folds is not None
    rows = np.concatenate(found.fold_rows())
    assert sorted(rows.tolist()) == np.flatnonzero(found.codes != 2).tolist()
    assert len(found.fold_rows()) == folds
    assert found.fold_rows()[0].tolist() == found.rows("val").tolist()
    sides = defaultdict(set)
    for value, fold in zip(values, found.folds.tolist(), strict=True):
        sides[value].add(fold)
    assert all(len(numbers) == 1 for numbers in sides.values())


@given(st.permutations(range(60)))
@settings(max_examples=20, deadline=None)
def test_the_split_does_not_depend_on_the_order_of_the_images(order):
    labels = np.arange(60) % 3
    copies = [f"copy {row}" for row in range(60)]
    first = split(labels, copies=copies, folds=5).folds
    again = split(labels[list(order)], copies=[copies[row] for row in order], folds=5).folds
    assert again is not None
    assert first is not None
    assert again.tolist() == first[list(order)].tolist()


def test_folds_without_groups_are_stratified_to_one_image():
    labels = np.repeat([0, 1, 2], [50, 31, 7])
    found = split(labels, folds=5, test_fraction=0)
    for rows in found.fold_rows():
        counts = np.bincount(labels[rows], minlength=3)
        assert abs(counts - np.array([10, 6.2, 1.4])).max() < 1
    assert found.text == "5 stratified folds of 100 %, test 0 %, seed 0"


def test_copies_stay_in_one_fold():
    labels = [row % 2 for row in range(40)]
    copies = [f"copy {row // 4 * 2 + row % 2}" for row in range(40)]
    found = split(labels, copies=copies, folds=4)
    assert len({(copy, fold) for copy, fold in zip(copies, found.folds.tolist(), strict=True)}) == len(set(copies))


def test_a_copy_unites_two_patients():
    labels = [row % 2 for row in range(40)]
    values = [row // 4 for row in range(40)]
    copies = [f"image {row}" for row in range(40)]
    copies[0] = copies[-2] = "the same"
    found = split(labels, values, copies=copies)
    assert len({int(found.codes[row]) for row in (0, 1, 2, 3, 36, 37, 38, 39)}) == 1
    assert "10 groups are split as 9" in found.notes[0]
    assert found.text.endswith("grouped by patient: 10 groups, seed 0")


def test_few_groups_still_give_every_part_one():
    labels, values = [0, 1] * 10, [row // 4 for row in range(20)]
    found = split(labels, values)
    assert np.bincount(found.codes).tolist() == [12, 4, 4]


def test_a_given_split_of_a_group_is_reported_as_a_leak_and_kept():
    labels, values = [0, 1] * 10, [row // 2 for row in range(20)]
    parts = ["test" if row in (0, 1, 2) else "train" for row in range(20)]
    found = split(labels, values, parts=parts)
    assert found.rows("test").tolist() == [0, 1, 2]
    assert found.codes[3] == 0
    assert "leak: grouped by patient, 1 group has images in more than one given part: 1;" in found.notes[0]


def test_a_given_val_part_joins_train_with_folds():
    parts = ["val" if row < 4 else "train" for row in range(20)]
    found = split([0, 1] * 10, parts=parts, folds=2, test_fraction=0)
    assert found.notes == ("with folds the given val part joins train: all its images validate in turn",)
    assert len(np.concatenate(found.fold_rows())) == 20


def test_a_class_of_one_group_is_refused_for_folds():
    with pytest.raises(DataError, match="class 'c1' has 1 group of images beside the test part"):
        split([0] * 8 + [1, 1], [*range(8), 9, 9], folds=2, test_fraction=0)


def test_more_folds_than_groups_are_refused():
    with pytest.raises(DataError, match="5 folds need as many groups of images, but there are 3"):
        split([0, 1] * 6, [row // 4 for row in range(12)], folds=5, test_fraction=0)


def test_a_class_in_one_group_trains_and_never_validates():
    found = split([0, 1] * 9 + [2, 2], [*np.repeat(range(9), 2), 50, 50])
    assert (found.codes[-2:] == 0).all()
    few = "too few groups of images for the share; add some, or hold out a larger one"
    assert found.notes == (
        f"no validation image of class 'c2': {few} (--val-fraction)",
        f"no test image of class 'c2': {few} (--test-fraction)",
    )


@settings(max_examples=50, deadline=None)
@given(grouped_images(), st.integers(0, 1000))
def test_a_part_lacks_a_class_only_where_train_can_spare_no_group_of_it(images, seed):
    labels, values = np.array(images[0]), np.array(images[1])
    # Most groups lose all classes but one, as slides of one disease do.
    kept = (values % (labels.max() + 2) == labels) | (values < 2)
    labels, values = labels[kept], values[kept]
    before = split(labels, values, seed=seed, every_class=False)
    after = split(labels, values, seed=seed)
    for code, part in ((1, "val"), (2, "test")):
        lacks = set(labels) - set(labels[after.codes == code])
        if not set(labels) - set(labels[before.codes == code]) and code == 1:
            assert (after.codes == 1).tolist() == (before.codes == 1).tolist(), "what was whole is not touched"
        assert len([note for note in after.notes if f"no {'validation' if code == 1 else part} image" in note]) == (
            1 if lacks else 0
        )
        assert lacks <= set(labels) - set(labels[before.codes == code])
    train = np.bincount(labels[after.codes == 0], minlength=labels.max() + 1)
    assert train.all()


def test_a_part_gets_a_group_of_the_rare_class_and_gives_back_what_it_does_not_need():
    # 40 patients with the common class, 3 of them with the rare one, which come late as the smallest do.
    labels = [0] * 400 + [1] * 3
    values = [row // 10 for row in range(400)] + [100, 101, 102]
    before = split(labels, values, every_class=False)
    assert before.notes == tuple(
        f"no {word} image of class 'c1': too few groups of images for the share; add some, or hold out a larger one "
        f"(--{part}-fraction)"
        for word, part in (("validation", "val"), ("test", "test"))
    )
    after = split(labels, values)
    assert not after.notes
    assert sorted(after.codes[-3:].tolist()) == [0, 1, 2]
    assert abs(np.bincount(after.codes) - np.bincount(before.codes)).max() <= 2
    folded = split(labels, values, folds=2)
    assert "no test image of class 'c1'" not in str(folded.notes)
    assert "no test image of class 'c1'" in str(split(labels[:-1], values[:-1], folds=2).notes), "two are for the folds"


def test_a_given_part_without_a_class_is_noted_with_folds_and_groups():
    found = split([0, 1, 2] * 8, range(24), parts=["test"] * 2 + ["train"] * 22, folds=3)
    assert "no test image of class 'c2': the given part has none" in found.notes


def test_a_test_part_that_no_group_can_be_spared_for_is_refused():
    with pytest.raises(DataError, match="no group can be spared for the val part"):
        split([0, 0, 1, 1], [0, 0, 1, 1])


@pytest.mark.parametrize("folds", [1, 11, -2])
def test_folds_out_of_range_are_refused(folds):
    with pytest.raises(UsageError, match="must be 2 to 10"):
        SplitOptions(folds=folds)
