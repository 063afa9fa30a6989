"""A map of the embeddings: a sample of the images as points in the plane, like ones near each other.

t-SNE (van der Maaten and Hinton 2008) of the first principal components, begun at the first two of them, so that the
map is the same each time and keeps its large distances (Kobak and Berens 2019).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hpo.device import one_thread

MOST_POINTS = 1_600
"""Images on the map: more could not be told apart, and the time grows with them."""

MOST_FOUND = 0.4
"""The share of the points that images with findings take at most."""

COMPONENTS = 40

STEPS = 500
"""Steps of the optimisation; the first 250 are with early exaggeration, as in the paper."""

FEWEST = 8
"""Fewest images of which a map is drawn."""


@dataclass(frozen=True)
class EmbeddingMap:
    """Points of some images."""

    rows: npt.NDArray[np.int64]
    """(m,) rows of the data set."""
    places: npt.NDArray[np.float32]
    """(m, 2) coordinates in [0, 1]."""


def map_embeddings(
    features: npt.NDArray[np.floating[Any]], found: npt.NDArray[np.int64], *, seed: int = 0
) -> EmbeddingMap | None:
    """Return a map of features (n, d); None for fewer than FEWEST images.

    Of many images a random sample is drawn, in which rows `found`, those with findings, are favoured.
    """
    rows = _sample(len(features), found, seed)
    if len(rows) < FEWEST:
        return None
    with one_thread():  # a map is small; on a machine where others compute, several threads take many times as long
        return EmbeddingMap(rows, _places(features[rows], seed))


def _places(features: npt.NDArray[np.floating[Any]], seed: int) -> npt.NDArray[np.float32]:
    """Return the coordinates (m, 2) of features (m, d) on the map."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    taken = np.asarray(features, dtype=np.float32)
    taken /= np.maximum(np.linalg.norm(taken, axis=1, keepdims=True), 1e-12)
    components = min(COMPONENTS, len(taken) - 1, taken.shape[1])
    reduced = PCA(components, svd_solver="randomized", random_state=seed).fit_transform(taken)
    # Copies fall on one point; a little noise keeps their distances above zero.
    noise = np.random.default_rng(seed).normal(0, 1e-4 * max(float(reduced.std()), 1e-6), reduced.shape)
    start = (reduced + noise)[:, :2]
    start = start / max(float(start[:, 0].std()), 1e-12) * 1e-4
    perplexity = float(np.clip((len(taken) - 1) / 3, 2, 30))
    made = TSNE(
        init=np.ascontiguousarray(start, dtype=np.float32) if components >= 2 else "random",
        perplexity=perplexity, max_iter=STEPS, random_state=seed, n_jobs=1, learning_rate="auto",
    )  # fmt: skip
    places = np.asarray(made.fit_transform((reduced + noise).astype(np.float32)), dtype=np.float32)
    low, high = places.min(axis=0), places.max(axis=0)
    return np.asarray((places - low) / np.maximum(high - low, 1e-12))


def _sample(count: int, found: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.int64]:
    """Return at most MOST_POINTS sorted rows, some of them from `found`."""
    if count <= MOST_POINTS:
        return np.arange(count)
    generator = np.random.default_rng(seed)
    favoured = generator.permutation(np.unique(found))[: int(MOST_FOUND * MOST_POINTS)]
    others = np.setdiff1d(generator.permutation(count)[: 2 * MOST_POINTS], favoured)
    others = generator.permutation(others)[: MOST_POINTS - len(favoured)]
    return np.sort(np.concatenate([favoured, others])).astype(np.int64)
