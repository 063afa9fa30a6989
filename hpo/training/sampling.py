"""The order of an epoch: which rows of the training part make up which batch. Pure functions of (seed, epoch)."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from hpo.training.randomness import derive

Rows = npt.NDArray[np.int64]


def batch_count(images: int, batch_size: int) -> int:
    """Batches of an epoch: as few as `batch_size` allows, and never so many that one would hold a single image."""
    return max(1, min(math.ceil(images / batch_size), images // 2))


def epoch_order(labels: Rows, *, balanced: bool, seed: int, epoch: int) -> Rows:
    """Rows (n,) of one epoch: a permutation or, when `balanced`, every class equally often."""
    generator = np.random.default_rng(derive(seed, "order", epoch))
    if balanced:
        return _balanced(labels, generator)
    return generator.permutation(len(labels))


def epoch_batches(order: Rows, batch_size: int) -> list[Rows]:
    """`order` cut into batches whose sizes differ by one at most.

    An epoch therefore ends with no small, noisy batch, no image is dropped, and BatchNorm never sees a batch of one.
    """
    return np.array_split(order, batch_count(len(order), batch_size))


def rows_in_order(count: int, batch_size: int) -> list[Rows]:
    """0..count-1 in batches, for evaluation; the last of them may be smaller."""
    return [np.arange(start, min(start + batch_size, count)) for start in range(0, count, batch_size)]


def _balanced(labels: Rows, generator: np.random.Generator) -> Rows:
    """len(labels) rows; the counts of two classes differ by one at most, those of two rows of a class likewise."""
    present = generator.permutation(np.unique(labels))
    quotas = [len(part) for part in np.array_split(labels, len(present))]
    drawn = [
        _cycled(np.flatnonzero(labels == label), quota, generator) for label, quota in zip(present, quotas, strict=True)
    ]
    return generator.permutation(np.concatenate(drawn))


def _cycled(rows: Rows, quota: int, generator: np.random.Generator) -> Rows:
    """`quota` of `rows`, each used once before any is used again."""
    rounds = math.ceil(quota / len(rows))
    return np.concatenate([generator.permutation(rows) for _ in range(rounds)])[:quota]
