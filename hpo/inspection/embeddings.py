"""Embeddings of a data set for its inspection: one point for each group of copies, in few dimensions.

Copies of one picture are one point, so a picture that lies there 800 times is neither dense nor common. Points are the
principal components of the features, standardised: the largest directions hold what most tells pictures apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch

from hpo.data.cache import forget_pages
from hpo.data.dataset import Labels, Part, Progress
from hpo.device import side_by_side
from hpo.inspection.inspected_data import InspectedData
from hpo.inspection.probe import Points, Probabilities, out_of_fold
from hpo.interruption import ShouldStop, never
from hpo.models.feature_store import FeatureStore, ImageFeatures
from hpo.models.frozen_backbone import FrozenBackbone

DIMENSIONS = 256
"""Most principal components that are kept."""

MEMORY = 64 << 20
"""Bytes of the blocks of distances that are looked at at once."""

_DEPTH = 64
"""Values of a column when the smallest of many values are looked for."""


class Grouped(Protocol):
    """Images in groups of copies."""

    @property
    def group_of(self) -> Labels:
        """(n,) int64: equal numbers for copies of one picture."""


@dataclass(frozen=True)
class GroupLabels:
    """The labels of the images of each group of copies: (G,) columns."""

    first: Labels
    """(G,) int64 the first image of each group, which stands for it."""
    group_of: Labels
    """(n,) int64 the group of each image, 0..G-1, in the order of the first images."""
    counts: Labels
    """(G, C) int64 images of each class in the group."""

    @classmethod
    def of(cls, group_of: Labels, labels: Labels, classes: int) -> GroupLabels:
        """Count the `labels` (n,) of groups given by any numbers (n,)."""
        _, first, inverse = np.unique(group_of, return_index=True, return_inverse=True)
        order = np.argsort(first)
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        numbers = rank[inverse.reshape(-1)]
        counts = np.zeros((len(first), classes), np.int64)
        np.add.at(counts, (numbers, labels), 1)
        return cls(np.sort(first), numbers, counts)

    def __len__(self) -> int:
        return len(self.first)

    @property
    def labels(self) -> Labels:
        """(G,) int64 the most common label of each group."""
        labels: Labels = self.counts.argmax(axis=1)
        return labels

    @property
    def sizes(self) -> Labels:
        """(G,) int64 images of each group."""
        sizes: Labels = self.counts.sum(axis=1)
        return sizes

    def rows_of(self, groups: Labels) -> Iterator[Labels]:
        """Yield the images of each of some groups."""
        order = np.argsort(self.group_of, kind="stable")
        numbers = self.group_of[order]
        starts, ends = np.searchsorted(numbers, groups), np.searchsorted(numbers, groups, side="right")
        for start, end in zip(starts, ends, strict=True):
            yield order[start:end]


@dataclass(frozen=True)
class Embeddings:
    """One point for each group of copies of a data set."""

    groups: GroupLabels
    points: Points
    """(G, D) float32 principal components of the standardised features, the largest first, D <= DIMENSIONS."""
    origin: str
    """The backbone and the source of its weights, in words."""
    features: ImageFeatures | None = None
    """The features of each image, from which the points were made."""
    together: Labels | None = None
    """(G,) int64: equal numbers for pictures of one patient, slide or plate; None where the data are not grouped."""

    def __len__(self) -> int:
        return len(self.points)

    def leading(self, dimensions: int) -> Points:
        """Return the first `dimensions` coordinates (G, d) of the points."""
        return np.ascontiguousarray(self.points[:, :dimensions])

    @property
    def classes(self) -> int:
        """The number of classes."""
        return int(self.groups.counts.shape[1])

    @cached_property
    def probabilities(self) -> Probabilities:
        """(G, C) float32 probabilities of the classes by probes that have not seen the group."""
        return out_of_fold(self.points, self.groups.labels, self.classes, together=self.together)


def embed(
    data: InspectedData,
    copies: Grouped,
    backbone: FrozenBackbone,
    *,
    store: FeatureStore,
    progress: Progress | None = None,
    should_stop: ShouldStop = never,
) -> Embeddings:
    """Return the embeddings of a data set with its groups of copies.

    The images must be packed at the image size of the backbone. Features come from the store, which computes those
    that are missing; errors are as in `FeatureStore.features`.
    """
    part = Part(data.images, np.arange(len(data)), data.labels, data.names, data.digests)
    features = store.features(
        part,
        backbone,
        fingerprint=data.fingerprint,
        white_level=data.white_level,
        progress=progress,
        should_stop=should_stop,
    )
    groups = GroupLabels.of(copies.group_of, data.labels, len(data.classes))
    together = None
    if data.grouping is not None:  # not united by copies: one picture of junk in all groups would leave nothing apart
        values = [data.grouping.values[row] for row in groups.first.tolist()]
        together = np.unique(values, return_inverse=True)[1].astype(np.int64)
    points = principal_components(features, groups.first)
    return Embeddings(groups, points, features.origin, features, together)


def principal_components(features: ImageFeatures, rows: Labels, dimensions: int = DIMENSIONS) -> Points:
    """Return the first principal components (m, D) of the standardised features of the rows (m,), in blocks.

    D is at most `dimensions`, the number of rows and of features that are not constant. Signs are such that the
    largest weight of each component is positive, so the result does not depend on the machine's linear algebra.
    """
    mean, scale, covariance = _moments(features, rows)
    values, vectors = torch.linalg.eigh(covariance)
    usable = int((values > 1e-8 * max(float(values.max()), 1e-12)).sum())
    kept = max(1, min(dimensions, usable, len(rows)))
    directions = vectors.flip(1)[:, :kept]
    signs = torch.sign(directions.gather(0, directions.abs().argmax(0, keepdim=True)))
    projection = (directions * signs).float()
    points = np.empty((len(rows), kept), np.float32)
    done = 0
    for block in _blocks(features, rows):
        points[done : done + len(block)] = (((block - mean) / scale) @ projection).numpy()
        done += len(block)
    return points


def _blocks(features: ImageFeatures, rows: Labels) -> Iterator[torch.Tensor]:
    """Yield the features of some rows, 4096 at a time."""
    for start in range(0, len(rows), 4096):
        yield torch.from_numpy(features.batch(rows[start : start + 4096]))
        forget_pages(features.stored)


def _moments(features: ImageFeatures, rows: Labels) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return mean (F,) and standard deviation (F,) of the features, and the covariance (F, F) of the standardised."""
    width = features.width
    total, squares = torch.zeros(width, dtype=torch.float64), torch.zeros((width, width), dtype=torch.float64)
    centre = torch.from_numpy(features.batch(rows[:4096])).mean(0)
    for features_of_some in _blocks(features, rows):
        block = features_of_some - centre
        total += block.sum(0)
        squares += block.T @ block
    mean = total / len(rows)
    covariance = squares / len(rows) - torch.outer(mean, mean)
    scale = covariance.diagonal().clamp(min=0).sqrt()
    scale = torch.where(scale > 1e-6 * max(float(scale.max()), 1e-30), scale, torch.inf)
    return (mean + centre).float(), scale.float(), covariance / torch.outer(scale, scale)


def nearest(
    points: Points, count: int, among: Points | None = None, *, apart: Labels | None = None
) -> tuple[Points, Labels]:
    """Return distances and rows (m, k) of the nearest others of each point, in blocks; k = `count` or all there are.

    With `among` (b, D), these are the nearest of other points instead, the point itself not left out. With `apart` (m,)
    points of one number are no neighbours; where none is left the distance is infinite.
    """
    queries = torch.from_numpy(points)
    others = queries if among is None else torch.from_numpy(among)
    count = min(count, len(others) - (among is None))
    # Points infinitely far away fill up the last column of `_smallest`.
    missing, last = -len(others) % _DEPTH, len(others) - 1
    squares = torch.nn.functional.pad((others**2).sum(1), (0, missing), value=torch.inf)
    others = torch.nn.functional.pad(others, (0, 0, 0, missing))
    distances, rows = np.empty((len(points), count), np.float32), np.empty((len(points), count), np.int64)
    step = max(1, MEMORY // (4 * max(1, len(others)) * torch.get_num_threads()))

    def find(start: int) -> None:
        block = queries[start : start + step]
        between = torch.addmm(squares[None], block, others.T, alpha=-2)
        if among is None:
            between[torch.arange(len(block)), torch.arange(start, start + len(block))] = torch.inf
        if apart is not None:
            own = torch.from_numpy(apart)
            between[:, : len(own)].masked_fill_(own[start : start + len(block), None] == own[None], torch.inf)
        found, at = _smallest(between, count)
        found = (found + (block**2).sum(1, keepdim=True)).clamp(min=0).sqrt()
        distances[start : start + step], rows[start : start + step] = found.numpy(), at.clamp(max=last).numpy()

    for _ in side_by_side(find, range(0, len(points), step)):
        pass
    return distances, rows


def _smallest(values: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the `count` smallest values of each row (b, n) in their order, and their places; n is k * _DEPTH."""
    # Only the `count` columns of (_DEPTH, k) with the smallest minima can hold them: most values are looked at once.
    width = values.shape[1] // _DEPTH
    if width <= count:
        return values.topk(count, largest=False)
    columns = values.view(-1, _DEPTH, width).amin(1).topk(count, largest=False, sorted=False).indices
    places = (columns[:, None] + width * torch.arange(_DEPTH)[None, :, None]).flatten(1)
    found, at = values.gather(1, places).topk(count, largest=False)
    return found, places.gather(1, at)
