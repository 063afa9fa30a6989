"""Principal components, neighbours and the probe, each against a plain calculation."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from hpo.data import digests
from hpo.inspection import embeddings
from hpo.inspection.embeddings import GroupLabels, embed, nearest, principal_components
from hpo.inspection.inspected_data import open_inspected
from hpo.inspection.probe import fit_probe, fold_rows, folds, out_of_fold
from hpo.models.feature_store import FeatureStore, ImageFeatures
from hpo.models.frozen_backbone import FrozenBackbone
from search_spaces import TrialConfig
from tests.hpo.inspection.made_embeddings import cloud, embeddings_of
from tests.hpo.training.conftest import SIZE, coloured


class Images(SimpleNamespace):
    """A data set of thirty images."""

    def __len__(self) -> int:
        return 30


def test_groups_count_their_labels_in_the_order_of_the_images() -> None:
    groups = GroupLabels.of(np.array([7, 3, 7, 9, 3, 7]), np.array([0, 1, 0, 2, 0, 1]), 3)
    assert groups.first.tolist() == [0, 1, 3]
    assert groups.group_of.tolist() == [0, 1, 0, 2, 1, 0]
    assert groups.counts.tolist() == [[2, 1, 0], [1, 1, 0], [0, 0, 1]]
    assert groups.labels.tolist() == [0, 0, 2]
    assert groups.sizes.tolist() == [3, 2, 1]
    assert [rows.tolist() for rows in groups.rows_of(np.array([2, 0]))] == [[3], [0, 2, 5]]


def test_principal_components_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    values = (rng.normal(0, 1, (300, 12)) @ rng.normal(0, 1, (12, 12)) + 5).astype(np.float16)
    values[:, 3] = 2  # a constant feature
    rows = np.arange(0, 300, 2)
    points = principal_components(ImageFeatures(values, np.arange(300), ""), rows, 4)
    scaled = StandardScaler().fit_transform(values[rows].astype(np.float64))
    expected = PCA(4).fit_transform(scaled)
    np.testing.assert_allclose(np.abs(points), np.abs(expected), atol=2e-3)


def test_components_of_one_image_and_of_equal_images() -> None:
    values = np.ones((3, 5), np.float16)
    assert principal_components(ImageFeatures(values, np.arange(3), ""), np.arange(1)).tolist() == [[0.0]]
    assert not principal_components(ImageFeatures(values, np.arange(3), ""), np.arange(3)).any()


def test_neighbours_in_blocks_are_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings, "MEMORY", 4 * 50 * 7)
    points = np.random.default_rng(1).normal(0, 1, (50, 6)).astype(np.float32)
    between = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(between, np.inf)
    distances, rows = nearest(points, 3)
    np.testing.assert_array_equal(rows, np.argsort(between, axis=1)[:, :3])
    np.testing.assert_allclose(distances, np.sort(between, axis=1)[:, :3], atol=1e-3)
    _, of_others = nearest(points[:5], 1, among=points[10:20])
    np.testing.assert_array_equal(of_others[:, 0], np.argmin(between[:5, 10:20], axis=1))
    assert nearest(points[:2], 9)[1].tolist() == [[1], [0]]


@pytest.mark.parametrize("count", [1, 5, 40])
def test_the_nearest_of_many_are_those_of_a_full_sort(count: int) -> None:
    points = np.random.default_rng(2).normal(0, 1, (700, 5)).astype(np.float32)
    between = np.square(points[:, None] - points[None]).sum(axis=2)
    np.fill_diagonal(between, np.inf)
    distances, rows = nearest(points, count)
    expected = np.sort(between, axis=1)[:, :count]
    np.testing.assert_allclose(np.take_along_axis(between, rows, axis=1), expected, atol=1e-4)
    np.testing.assert_allclose(distances, np.sqrt(expected), atol=1e-3)
    assert all(len(set(row)) == count for row in rows.tolist())
    alone = np.zeros(700, np.int64)
    distances, rows = nearest(points, count, apart=alone)
    assert np.isinf(distances).all(), "all of them are of one group"
    assert rows.max() < 700


def test_folds_hold_every_class_evenly() -> None:
    labels = np.repeat([0, 1, 2], [50, 10, 5])
    fold = folds(labels)
    for label in range(3):
        counts = np.bincount(fold[labels == label], minlength=5)
        assert counts.max() - counts.min() <= 1
    assert sorted(np.concatenate([held for held, _ in fold_rows(labels)]).tolist()) == list(range(65))
    assert not list(fold_rows(np.zeros(1, np.int64)))


def test_the_probe_learns_and_is_the_same_each_time() -> None:
    points, labels = cloud(np.random.default_rng(2), 4, 60)
    embedded = embeddings_of(points, labels)
    probabilities = embedded.probabilities
    assert (probabilities.argmax(axis=1) == labels).mean() > 0.95
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(probabilities, out_of_fold(embedded.points, labels, 4))


def test_the_probe_does_not_see_its_fold() -> None:
    rng = np.random.default_rng(3)
    noise = rng.normal(0, 1, (200, 150)).astype(np.float32)
    labels = rng.integers(0, 2, 200)
    seen = fit_probe(noise, labels, 2).predict(noise).argmax(axis=1)
    assert (seen == labels).mean() > 0.9
    assert (out_of_fold(noise, labels, 2).argmax(axis=1) == labels).mean() < 0.65


def test_embeddings_of_a_data_set_come_from_the_store(tmp_path: Path) -> None:
    images, labels = coloured(30)
    pairs = [(digests.of_pixels(image), digests.of_pixels(image)) for image in images]
    data: Any = Images(
        images=images, labels=labels, names=[f"{row}.png" for row in range(30)], digests=pairs,
        classes=("a", "b", "c"), fingerprint="f", white_level=None, grouping=None,
    )  # fmt: skip
    copies = SimpleNamespace(group_of=np.array([0, 0, *range(2, 30)]))
    config = TrialConfig.from_dict({"backbone": "test_resnet", "pretrained": False, "image_size": SIZE})
    embedded = embed(data, copies, FrozenBackbone(config), store=FeatureStore(tmp_path))
    assert len(embedded) == 29
    assert embedded.origin == "test_resnet (random)"
    assert embedded.features is not None
    assert len(embedded.features) == 30


def test_a_set_of_16_bits_has_features_at_each_white_level(tmp_path: Path) -> None:
    for number in range(4):
        values = np.random.default_rng(number).integers(0, 4096, (SIZE, SIZE)).astype(np.uint16)
        path = tmp_path / "data" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).save(path)
    config = TrialConfig.from_dict({"backbone": "test_resnet", "pretrained": False, "image_size": SIZE})
    backbone, store = FrozenBackbone(config), FeatureStore(tmp_path / "features")
    stored = []
    for level in (4095, 65535, None):
        data = open_inspected(tmp_path / "data", image_size=SIZE, cache=tmp_path / "cache", white_level=level)
        features = embed(data, SimpleNamespace(group_of=np.arange(4)), backbone, store=store).features
        assert features is not None
        stored.append(features.batch(np.arange(4)))
    assert not np.allclose(stored[0], stored[1])
    np.testing.assert_array_equal(stored[0], stored[2])
