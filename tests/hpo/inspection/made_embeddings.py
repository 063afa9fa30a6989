"""Embeddings made of numbers: classes as clouds of points."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from hpo.inspection.embeddings import Embeddings, GroupLabels, principal_components
from hpo.models.feature_store import ImageFeatures

WIDTH = 40


def cloud(rng: np.random.Generator, classes: int, each: int) -> tuple[np.ndarray, np.ndarray]:
    """Return points of some classes about random centres in a subspace, and their labels."""
    centres = np.zeros((classes, WIDTH))
    centres[:, :12] = rng.normal(0, 4, (classes, 12))
    labels = np.repeat(np.arange(classes), each)
    return centres[labels] + rng.normal(0, 1, (len(labels), WIDTH)), labels


def embeddings_of(points: np.ndarray, labels: np.ndarray, group_of: np.ndarray | None = None) -> Embeddings:
    features = ImageFeatures(points.astype(np.float16), np.arange(len(points)), "made of numbers")
    groups = np.arange(len(points)) if group_of is None else group_of
    grouped = GroupLabels.of(groups, labels, int(labels.max()) + 1)
    return Embeddings(grouped, principal_components(features, grouped.first), features.origin, features)


def data_of(labels: np.ndarray, given: list[str] | None = None) -> Any:
    """Return names, classes and given parts, all that the finding functions read of a data set."""
    names = [f"{label}/{row}.png" for row, label in enumerate(labels)]
    return SimpleNamespace(
        names=names, classes=tuple(f"class {one}" for one in range(int(labels.max()) + 1)), labels=labels, given=given
    )
