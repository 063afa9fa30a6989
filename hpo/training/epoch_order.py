"""The order of the rows in an epoch: each image once, every class equally often, or rare classes drawn up to a count.

An order depends on the labels, the configuration, the seed and the epoch alone, so that a run which is resumed at any
step goes on with the same rows.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from hpo.data.dataset import Rows
from hpo.errors import DataError
from hpo.seeds import derive_seed
from search_spaces import TrialConfig

MOST_DRAWS = 10_000_000
"""Most images of an epoch under `oversample_to`; an order of them takes 80 MB."""


def epoch_order(labels: Rows, *, balanced: bool, seed: int, epoch: int, oversample_to: int = 0) -> Rows:
    """Return the rows (m,) of one epoch, in random order.

    By default they are the n rows, each once. If `balanced`, n rows with every class equally often. With
    `oversample_to` above 0, all rows, and those of smaller classes again until each has so many.
    """
    generator = np.random.default_rng(derive_seed(seed, "order", epoch))
    if balanced:
        return _balanced(labels, generator)
    if oversample_to:
        return _oversampled(labels, oversample_to, generator)
    return generator.permutation(len(labels))


def draws_by_class(counts: npt.ArrayLike, oversample_to: int) -> Rows:
    """Return the images of each class in an epoch (C,), from the numbers that there are (C,).

    A class without an image stays without one. Raises DataError for an epoch of more than MOST_DRAWS images.
    """
    given = np.asarray(counts, dtype=np.int64)
    drawn = np.where(given > 0, np.maximum(given, oversample_to), 0)
    if oversample_to and (total := int(drawn.sum())) > MOST_DRAWS:
        raise DataError(
            f"oversample_to is {oversample_to}, so an epoch would have {total:,} images, but must have at most "
            f"{MOST_DRAWS:,}; give a smaller --set oversample_to"
        )
    return drawn


def epoch_length(labels: Rows, config: TrialConfig) -> int:
    """Return the number of images in an epoch; DataError as in `draws_by_class`."""
    return int(draws_by_class(np.bincount(labels), config.oversample_to).sum())


def drawn_labels(labels: Rows, config: TrialConfig) -> Rows:
    """Return labels (m,) as often as an epoch draws them, in no order: class weights and priors are counted on them."""
    # Balanced sampling is left out: class weights were always those of the images themselves.
    if not config.oversample_to:
        return labels
    drawn = draws_by_class(np.bincount(labels), config.oversample_to)
    return np.repeat(np.arange(len(drawn)), drawn)


def _balanced(labels: Rows, generator: np.random.Generator) -> Rows:
    """Draw len(labels) rows: counts of classes differ by one at most, and so do counts of the rows of a class."""
    present = generator.permutation(np.unique(labels))
    quotas = [len(part) for part in np.array_split(labels, len(present))]
    drawn = [
        _cycled(np.flatnonzero(labels == label), quota, generator) for label, quota in zip(present, quotas, strict=True)
    ]
    return generator.permutation(np.concatenate(drawn))


def _oversampled(labels: Rows, least: int, generator: np.random.Generator) -> Rows:
    """Draw every row once, and rows of classes with fewer than `least` again, all rows of a class about as often."""
    drawn = draws_by_class(np.bincount(labels), least)
    rows = [_cycled(np.flatnonzero(labels == label), int(drawn[label]), generator) for label in np.flatnonzero(drawn)]
    return generator.permutation(np.concatenate(rows))


def _cycled(rows: Rows, quota: int, generator: np.random.Generator) -> Rows:
    """Draw `quota` of `rows`, each once before any is drawn again."""
    rounds = math.ceil(quota / len(rows))
    return np.concatenate([generator.permutation(rows) for _ in range(rounds)])[:quota]
