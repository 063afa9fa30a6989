"""Effects of oversampling and of the background mask on given data, in one line each, before a study exists."""

from __future__ import annotations

import numpy as np

from hpo.augmentation.background import object_mask
from hpo.data import Dataset
from hpo.training.epoch_order import draws_by_class
from search_spaces import Space

SAMPLE = 500
"""Most training images in which an object is looked for before a study exists."""


def data_dimension_lines(space: Space, dataset: Dataset) -> list[str]:
    """Return a line for each dimension of `space` that changes the images of an epoch.

    Raises DataError where an epoch would have more images than hpo trains on.
    """
    return [*oversampling_lines(space, dataset), *background_lines(space, dataset)]


def oversampling_lines(space: Space, dataset: Dataset) -> list[str]:
    """Return what the largest `oversample_to` of the space makes of the training part; nothing where it is 0."""
    most = max(int(value or 0) for value in space.values("oversample_to"))
    if not most:
        return []
    counts = np.bincount(dataset.train.labels, minlength=len(dataset.classes))
    drawn = draws_by_class(counts, most)
    smallest = min(np.flatnonzero(counts), key=lambda label: counts[label])
    times = drawn[smallest] / counts[smallest]
    given, total = int(counts.sum()), int(drawn.sum())
    if total == given:
        return [f"oversample_to {most:,}: no class has fewer training images, so nothing is drawn again"]
    return [
        f"oversample_to {most:,}: an epoch has {total:,} images in place of {given:,} ({total / given:.3g} times as "
        f"long); an image of {dataset.classes[smallest]}, the smallest class, is drawn {times:.3g} times"
    ]


def background_lines(space: Space, dataset: Dataset) -> list[str]:
    """Return in how many training images no object can be told from the background; nothing where all keep theirs."""
    if "mask" not in space.values("background"):
        return []
    rows = np.random.default_rng(0).permutation(len(dataset.train))[:SAMPLE]
    masks = [object_mask(dataset.train.batch(rows[[place]])[0]) for place in range(len(rows))]
    kept = sum(mask is None for mask in masks)
    which = "training images" if len(rows) == len(dataset.train) else "training images that were looked at"
    return [
        f"background mask: in {len(rows) - kept:,} of {len(rows):,} {which} an object can be told from its background, "
        f"which takes its own mean colour; the other {kept:,} stay as they are; `hpo show background DATA` draws them"
    ]
