"""Groups that must stay together: what copies and given parts do to them, and probes that have not seen a group."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo.data.grouping import Grouping
from hpo.inspection.copies import Copies, CopyGroup, LabelAgreement
from hpo.inspection.embeddings import nearest
from hpo.inspection.image_groups import across_groups, measure_groups, units_of
from hpo.inspection.leaks import find_leaks
from hpo.inspection.probe import fold_rows, folds
from hpo.inspection.target import measure_target
from tests.hpo.inspection.inspected import inspected, pictures
from tests.hpo.inspection.made_embeddings import cloud, embeddings_of

IMAGES = pictures(24, size=8)


def grouped(values, parts=None):
    data = inspected(IMAGES[: len(values)], np.arange(len(values)) % 2, given=parts)
    return replace(data, grouping=Grouping("patient", tuple(values), "patient"), group_by="patient")


def copies_of(data, *groups):
    group_of = np.arange(len(data))
    for rows in groups:
        group_of[list(rows)] = rows[0]
    made = tuple(
        CopyGroup(np.array(rows), ("near",) * len(rows), (0,) * len(rows), (1.0,) * len(rows)) for rows in groups
    )
    return Copies(made, group_of, LabelAgreement(0, 0.0, 0.5))


def test_a_picture_in_two_groups_joins_them_and_is_named():
    data = grouped(["p1"] * 4 + ["p2"] * 4 + ["p3"] * 2)
    copies = copies_of(data, (0, 1), (2, 4))
    found = measure_groups(data, copies)
    assert found is not None
    assert (found.count, found.across, found.linked) == (3, 1, 1)
    assert (found.smallest, found.largest) == (2, 4)
    assert found.lines()[:2] == [
        "grouped by patient: 3 groups of 2 to 4 images, 4 in the middle",
        "grouped by patient: 1 picture has copies in several groups; their findings name the groups",
    ]
    assert "3 groups are split as 2" in found.lines()[2]
    assert across_groups(data, copies) == dict.fromkeys(
        [data.names[2], data.names[4]], "it lies in 2 groups by patient: p1, p2"
    )
    assert measure_groups(inspected(IMAGES[:4], [0, 1, 0, 1]), copies_of(IMAGES[:4])) is None


def test_an_image_that_is_left_out_joins_nothing():
    data = grouped(["p1", "p1", "p2", "p2"])
    copies = copies_of(data, (1, 2))
    kept = np.array([True, False, True, True])
    assert len(set(units_of(data, copies.group_of).tolist())) == 1
    assert len(set(units_of(data, copies.group_of, kept).tolist())) == 3


def test_a_group_in_two_given_parts_is_a_leak():
    data = grouped(["p1"] * 4 + ["p2"] * 4, ["train"] * 3 + ["test"] + ["train"] * 2 + ["test"] * 2)
    found = find_leaks(data, copies_of(data, (4, 6)))
    reasons = {row.file: row.reason for row in found.findings}
    assert reasons[data.names[0]].startswith("of train; its group 'p1' is also in test as class 1/3.png; with --fix-l")
    assert "of train, and also in test as class 0/6.png, almost the same picture" in reasons[data.names[4]]
    (pair,) = found.pairs
    assert dict(pair.kinds) == {"near": 1, "same-group": 2}
    after = [found.moves.get(name, part) for name, part in zip(data.names, data.given, strict=True)]
    assert len(set(after[:4])) == len(set(after[4:])) == 1


def test_an_image_whose_group_is_only_joined_to_another_moves_without_a_finding():
    data = grouped(["p1"] * 3 + ["p2"] * 2, ["train"] * 3 + ["test"] * 2)
    found = find_leaks(data, copies_of(data, (0, 3)))
    assert {row.file for row in found.findings} == {data.names[0], data.names[3]}
    assert found.groups[0].kinds == ("near", "joined-group", "joined-group", "near", "joined-group")
    assert [len(pair.rows) for pair in found.pairs] == [1]
    assert len(set(found.moves.values())) == 1
    without = find_leaks(data, copies_of(data, (0, 3)), without={data.names[0]})
    assert (without.findings, without.moves) == ((), {})


@given(seed=st.integers(0, 1000), count=st.integers(2, 60), groups=st.integers(1, 12))
def test_no_fold_divides_a_group(seed, count, groups):
    rng = np.random.default_rng(seed)
    labels, together = rng.integers(0, 3, count), rng.integers(0, groups, count)
    fold = folds(labels, seed=seed, together=together)
    assert all(len(set(fold[together == group])) == 1 for group in set(together.tolist()))
    for held, rest in fold_rows(labels, together=together):
        assert not set(together[held]) & set(together[rest])
        assert len(rest)


def test_neighbours_of_the_same_group_do_not_count():
    points = np.array([[0.0], [0.1], [5.0], [5.1]], np.float32)
    assert nearest(points, 1)[1][:, 0].tolist() == [1, 0, 3, 2]
    distances, rows = nearest(points, 1, apart=np.array([0, 0, 1, 1]))
    assert rows[:, 0].tolist() == [2, 2, 1, 1]
    assert distances[:, 0] == pytest.approx([5.0, 4.9, 4.9, 5.0], abs=1e-3)


def test_groups_that_carry_the_label_lower_the_target():
    """Where each patient has a look of its own, only a probe that has not seen the patient is honest."""
    rng = np.random.default_rng(0)
    points, patient = cloud(rng, 12, 15)
    labels = rng.integers(0, 2, 12)[patient]  # the class says nothing about a patient's look
    embedded = embeddings_of(points, labels)
    alone, apart = measure_target(embedded), measure_target(replace(embedded, together=patient))
    assert alone is not None
    assert apart is not None
    assert alone.accuracy > 0.85
    assert apart.accuracy < 0.8
    assert measure_target(replace(embedded, together=np.zeros(len(labels), np.int64))) is None
