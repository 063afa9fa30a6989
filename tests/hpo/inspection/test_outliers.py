"""Pictures that do not belong: copies under many labels, scattered ones, and rare classes that do belong."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpo.inspection.embeddings import nearest
from hpo.inspection.outlier_scores import foreign_share, label_evidence, tail_rate
from hpo.inspection.outliers import dbscan_noise, find_outliers
from tests.hpo.inspection.made_embeddings import WIDTH, cloud, data_of, embeddings_of


def planted(
    seed: int, each: int = 150, scattered: int = 40, copies: int = 80
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return points, labels and groups of five classes, then foreign pictures and copies of one with random labels."""
    rng = np.random.default_rng(seed)
    points, labels = cloud(rng, 5, each)
    foreign = rng.normal(0, 1, (scattered + 1, WIDTH))
    foreign[:, 20:] += rng.normal(0, 9, (scattered + 1, WIDTH - 20))
    one = np.repeat(foreign[-1:], copies, axis=0)
    every = np.concatenate([points, foreign[:-1], one])
    groups = np.concatenate([np.arange(len(every) - copies), np.full(copies, len(every))])
    return every, np.concatenate([labels, rng.integers(0, 5, scattered + copies)]), groups


@pytest.mark.parametrize("seed", range(3))
def test_scattered_pictures_and_copies_under_many_labels_are_dropped(seed: int) -> None:
    points, labels, groups = planted(seed)
    found = find_outliers(data_of(labels), embeddings_of(points, labels, groups))
    foreign = np.arange(750, len(points))
    assert np.isin(foreign, found.dropped).mean() >= 0.9
    assert np.isin(found.dropped, foreign).mean() >= 0.97
    copied = [row for row in found.findings if row.group and row.file.split("/")[1] == f"{len(points) - 1}.png"]
    assert [row.action for row in copied] == ["drop"]
    assert "it is there 80 times under 5 classes" in copied[0].reason
    assert len([row for row in found.findings if row.group == copied[0].group]) == 80


def test_no_picture_of_a_given_test_part_is_dropped() -> None:
    points, labels, groups = planted(0)
    data = data_of(labels, given=["test" if row % 2 else "train" for row in range(len(labels))])
    found = find_outliers(data, embeddings_of(points, labels, groups))
    assert len(found.dropped)
    assert not (found.dropped % 2).any()
    in_test = [row for row in found.findings if "given test part" in row.reason]
    assert in_test
    assert {row.action for row in in_test} == {"keep"}


def test_without_foreign_pictures_nothing_is_dropped() -> None:
    for seed in range(3):
        points, labels = cloud(np.random.default_rng(seed), 6, 100)
        assert not len(find_outliers(data_of(labels), embeddings_of(points, labels)).dropped)


def test_a_rare_class_far_from_all_others_is_kept() -> None:
    rng = np.random.default_rng(5)
    points, labels = cloud(rng, 5, 150)
    rare = rng.normal(0, 1, (10, WIDTH))
    rare[:, 25:] += 8
    every, all_labels = np.concatenate([points, rare]), np.concatenate([labels, np.full(10, 5)])
    assert not len(find_outliers(data_of(all_labels), embeddings_of(every, all_labels)).dropped)


def test_many_copies_under_one_label_are_no_reason_to_drop() -> None:
    points, labels = cloud(np.random.default_rng(6), 4, 100)
    every = np.concatenate([points, np.repeat(points[:1], 60, axis=0)])
    groups = np.concatenate([np.arange(400), np.zeros(60, np.int64)])
    all_labels = np.concatenate([labels, np.full(60, labels[0])])
    assert not len(find_outliers(data_of(all_labels), embeddings_of(every, all_labels, groups)).dropped)


@pytest.mark.parametrize("seed", range(3))
def test_a_far_picture_with_many_copies_under_one_label_is_found(seed: int) -> None:
    points, labels, groups = planted(seed)
    labels[-80:] = 2
    found = find_outliers(data_of(labels), embeddings_of(points, labels, groups))
    assert len([row for row in found.findings if row.group and row.action == "drop"]) == 80


def test_in_a_very_small_set_a_far_picture_is_shown_and_kept() -> None:
    points, labels = cloud(np.random.default_rng(3), 2, 30)
    points[5, 20:] += 40
    found = find_outliers(data_of(labels), embeddings_of(points, labels))
    assert [(row.file, row.action) for row in found.findings] == [("0/5.png", "keep")]


@pytest.mark.parametrize("seed", range(3))
def test_in_a_very_small_set_no_picture_that_is_there_once_is_dropped(seed: int) -> None:
    points, labels = cloud(np.random.default_rng(seed), 2, 30)
    points[:3, 20:] += 40
    labels[:3] = 1
    found = find_outliers(data_of(labels), embeddings_of(points, labels))
    assert {row.action for row in found.findings} <= {"keep"}
    assert not len(found.dropped)


@pytest.mark.parametrize(("each", "action"), [(30, "keep"), (60, "drop")])
def test_below_250_pictures_one_that_is_there_once_is_shown_and_not_dropped(each: int, action: str) -> None:
    points, labels, groups = planted(2, each=each, scattered=12, copies=6)
    points, labels, groups = points[-18:], labels[-18:], groups[-18:]
    body, own = cloud(np.random.default_rng(2), 4, each)
    every, all_labels = np.concatenate([body, points]), np.concatenate([own, labels % 4])
    together = np.concatenate([np.arange(len(body)), groups + len(body)])
    found = find_outliers(data_of(all_labels), embeddings_of(every, all_labels, together))
    assert found.keeps_single == (action == "keep")
    alone, copied = ([row for row in found.findings if bool(row.group) is many] for many in (False, True))
    assert len(alone) >= 10
    assert action in {row.action for row in alone}
    assert {row.action for row in copied} == {"drop"}, "copies under several labels are sure in any set"
    if action == "keep":
        assert {row.action for row in alone} == {"keep"}
        assert max(row.score for row in alone) == 0.8
        assert "kept, as with fewer than 250 pictures it may be a rare one" in alone[0].reason
        assert found.lines()[0].startswith("with 133 different pictures, fewer than 250, one that is there once")
    else:
        assert found.lines() == []


def test_dbscan_takes_many_copies_for_a_cluster() -> None:
    points, labels, groups = planted(1)
    noise = dbscan_noise(embeddings_of(points, labels, groups)).rows
    assert not np.isin(np.arange(790, 870), noise).any()


def test_dbscan_is_that_of_scikit_learn() -> None:
    from sklearn.cluster import DBSCAN

    points, labels = cloud(np.random.default_rng(8), 3, 60)
    embedded = embeddings_of(points, labels)
    noise = dbscan_noise(embedded)
    expected = DBSCAN(eps=noise.radius, min_samples=5).fit_predict(embedded.leading(50))
    assert noise.rows.tolist() == np.flatnonzero(expected == -1).tolist()


@pytest.mark.parametrize("count", [1, 2, 3, 19, 25])
def test_few_pictures_are_no_reason_to_fail(count: int) -> None:
    points, labels = cloud(np.random.default_rng(9), 1, count)
    found = find_outliers(data_of(labels), embeddings_of(points, labels))
    assert not found.findings


def test_equal_pictures_everywhere() -> None:
    labels = np.arange(60) % 3
    assert not len(find_outliers(data_of(labels), embeddings_of(np.ones((60, WIDTH)), labels)).dropped)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(30, 300))
def test_shares_and_rates_lie_in_0_to_1_and_grow_with_the_distance(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    logs = rng.normal(0, 1, count)
    order = np.argsort(-logs)
    share = foreign_share(logs, rng.random(count) < 0.8, 0.2, 0.8)[order]
    rate = tail_rate(logs)[order]
    assert ((share >= 0) & (share <= 1)).all()
    assert ((rate >= 0) & (rate <= 1)).all()
    assert (np.diff(share) <= 1e-9).all()
    assert (np.diff(rate) >= -1e-9).all()


def test_labels_of_copies_speak_for_and_against() -> None:
    shares = np.full(4, 0.25)
    counts = np.array([[1, 0, 0, 0], [40, 0, 0, 0], [10, 10, 10, 10], [1, 1, 0, 0], [39, 1, 0, 0]])
    alone, same, mixed, two, one_wrong = label_evidence(counts, shares)
    assert alone == 0
    assert -1.7 < same < 0
    assert mixed == 12
    assert 0 < two < 4
    assert -1.7 < one_wrong < 0


def test_a_neighbour_of_its_own_kind_does_not_hide_a_foreign_picture() -> None:
    points, labels, groups = planted(2, scattered=60, copies=1)
    points[750:] = points[750] + np.random.default_rng(0).normal(0, 0.5, points[750:].shape)
    embedded = embeddings_of(points, labels, groups)
    distances, _ = nearest(embedded.leading(8), 1)
    assert distances[750:].mean() < distances[:750].mean()
    dropped = find_outliers(data_of(labels), embedded).dropped
    assert np.isin(np.arange(750, len(points)), dropped).mean() >= 0.95
