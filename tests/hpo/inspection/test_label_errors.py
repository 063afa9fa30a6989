"""Wrong labels: planted ones come first, cleanlab finds the same, and nothing is changed by itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from hpo.inspection import label_errors
from hpo.inspection.label_errors import (
    confident_off_diagonal,
    find_label_errors,
    join_evidence,
    neighbour_votes,
)
from hpo.inspection.outliers import find_outliers
from tests.hpo.inspection.made_embeddings import cloud, data_of, embeddings_of


def exchanged(seed: int, each: int = 80) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return points of four classes, labels of which 3 % are another class, and which these are."""
    rng = np.random.default_rng(seed)
    points, labels = cloud(rng, 4, each)
    points *= np.where(rng.random(points.shape) < 0.5, 1.6, 1)  # so that classes overlap
    wrong = rng.permutation(len(labels))[: round(0.03 * len(labels))]
    given = labels.copy()
    given[wrong] = (labels[wrong] + 1 + rng.integers(0, 3, len(wrong))) % 4
    return points, given, given != labels


@pytest.mark.parametrize("seed", range(3))
def test_exchanged_labels_come_first(seed: int) -> None:
    points, labels, wrong = exchanged(seed)
    found = find_label_errors(data_of(labels), embeddings_of(points, labels))
    assert average_precision_score(wrong, found.disagreement) > 0.9
    assert found.suspects[wrong].mean() >= 0.8
    assert {row.action for row in found.findings} == {"keep"}
    assert [row.score for row in found.findings] == sorted((row.score for row in found.findings), reverse=True)
    first = found.findings[0]
    assert first.reason.startswith("labelled class ")
    suggested = first.reason.rpartition("relabel:")[2]
    assert f"the linear probe says {suggested} (" in first.reason


def test_probe_and_neighbours_together_rank_better_than_the_probe() -> None:
    gains = []
    for seed in range(4):
        points, labels, wrong = exchanged(seed)
        embedded = embeddings_of(points + np.random.default_rng(seed).normal(0, 1.5, points.shape), labels)
        alone = 1 - embedded.probabilities[np.arange(len(labels)), labels]
        joined = find_label_errors(data_of(labels), embedded).disagreement
        gains.append(average_precision_score(wrong, joined) - average_precision_score(wrong, alone))
    assert np.mean(gains) >= 0


def test_cleanlab_and_numpy_find_the_same() -> None:
    pytest.importorskip("cleanlab", reason="the extra `doctor` is not installed")
    for seed in range(3):
        points, labels, _ = exchanged(seed)
        probabilities = embeddings_of(points, labels).probabilities
        found, method = label_errors.confident_learning(probabilities, labels)
        assert method.startswith("cleanlab 2.")
        np.testing.assert_array_equal(found, confident_off_diagonal(probabilities, labels))


def test_without_cleanlab_numpy_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cleanlab", None)
    points, labels, _ = exchanged(0)
    assert find_label_errors(data_of(labels), embeddings_of(points, labels)).method == "NumPy"


def test_the_confident_joint_by_hand() -> None:
    labels = np.array([0, 0, 0, 1, 1, 1])
    of_0 = np.array([0.9, 0.8, 0.1, 0.2, 0.1, 0.4])
    probabilities = np.stack([of_0, 1 - of_0], axis=1).astype(np.float32)
    # Thresholds 0.6 and 0.767: the third image is confidently of class 1, the last of none.
    assert confident_off_diagonal(probabilities, labels).tolist() == [False, False, True, False, False, False]


def test_copies_under_two_labels_and_dropped_pictures_are_left_out() -> None:
    points, labels, wrong = exchanged(1)
    row = int(np.flatnonzero(wrong)[0])
    every, all_labels = np.concatenate([points, points[row : row + 1]]), np.append(labels, (labels[row] + 1) % 4)
    groups = np.append(np.arange(len(labels)), row)
    embedded = embeddings_of(every, all_labels, groups)
    outliers = find_outliers(data_of(all_labels), embedded)
    found = find_label_errors(data_of(all_labels), embedded, outliers)
    names = {finding.file for finding in found.findings}
    assert f"{labels[row]}/{row}.png" not in names
    assert not names & {finding.file for finding in outliers.findings if finding.action == "drop"}


@pytest.mark.parametrize(("classes", "each"), [(1, 50), (3, 4), (25, 1)])
def test_one_class_and_few_images(classes: int, each: int) -> None:
    points, labels = cloud(np.random.default_rng(0), classes, each)
    assert len(find_label_errors(data_of(labels), embeddings_of(points, labels)).probability) == len(labels)


def test_evidence_joins_to_probabilities() -> None:
    probe = np.array([[0.5, 0.5], [1.0, 0.0]], np.float32)
    votes = np.array([[0.9, 0.1], [0.1, 0.9]])
    joined = join_evidence(probe, votes)
    np.testing.assert_allclose(joined.sum(axis=1), 1)
    np.testing.assert_allclose(joined[0], [0.9, 0.1])
    assert joined[1, 0] > 0.99


def test_pictures_of_one_group_do_not_vote_for_each_other() -> None:
    rng = np.random.default_rng(0)
    points, labels = cloud(rng, 3, 40)
    slide = np.arange(8)  # one slide, whose pictures are alike and all have the label of another class
    points[slide] = points[0] + rng.normal(0, 0.05, (8, points.shape[1]))
    labels[slide] = 1
    embedded = embeddings_of(points, labels)
    together = np.arange(len(labels))
    together[slide] = 0
    assert neighbour_votes(embedded)[1][slide, 1].min() > 0.4, "they vote for each other where nothing is grouped"
    votes, shares = neighbour_votes(replace(embedded, together=together))
    assert shares[slide, 1].max() == 0
    assert (votes[slide].argmax(axis=1) == 0).all()
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    votes, shares = neighbour_votes(replace(embedded, together=np.zeros(len(labels), np.int64)))
    np.testing.assert_allclose(votes, 1 / 3)
    assert not shares.any()


@pytest.mark.parametrize("seed", range(3))
def test_hard_images_with_right_labels_are_doubted_and_not_named(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points, labels = cloud(rng, 4, 120)
    points += rng.normal(0, 5, points.shape)  # so that classes overlap, and the probe errs
    found = find_label_errors(data_of(labels), embeddings_of(points, labels))
    assert found.doubted.sum() >= 10
    assert len(found.findings) <= 2
    assert len(found.lines()) == 2
