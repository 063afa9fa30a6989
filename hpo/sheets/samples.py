"""The images that a contact sheet shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hpo.data.dataset import Images, Labels
from hpo.data.decode import fit, pillow_unheard
from hpo.data.formats import is_image
from hpo.data.sources import existing, open_source
from hpo.data.synthetic import CELL_CLASSES, draw_cell
from hpo.errors import DataError


def sample_images(path: Path | None, count: int, size: int, seed: int) -> Images:
    """`count` images (count, S, S, 3) uint8, S = `size`, of as many classes as can be, drawn from `seed`.

    Of the data set at `path`, of which no other image is decoded; the image itself, alone, where `path` is one; drawn
    cells for None. DataError where there is nothing to be had.
    """
    rng = np.random.default_rng(seed)
    if path is None:
        labels = rng.permutation(np.arange(max(count, len(CELL_CLASSES))) % len(CELL_CLASSES))[:count]
        return np.stack([draw_cell(int(label), seed + number, size) for number, label in enumerate(labels)])
    if existing(path).is_file() and is_image(path.name):
        try:
            return fit(path.read_bytes(), size)[None]
        except DataError as error:
            raise DataError(f"{path}: {error}; give an image that can be read") from None
    return _of_source(path, count, size, rng)


def _of_source(path: Path, count: int, size: int, rng: np.random.Generator) -> Images:
    source = open_source(path)
    listing = source.listing()
    if not listing.records:
        raise DataError(f"{path} holds no image: give a data set with some, or one image")
    wanted = _spread(listing.labels, count, rng)
    found: dict[int, Images] = {}
    with pillow_unheard(), source.reads() as reads:
        for row, read in zip(range(max(wanted) + 1), reads, strict=False):
            if row in wanted:
                try:
                    found[row] = fit(read(), size)
                except DataError as error:
                    raise DataError(f"{listing.records[row].name} in {path}: {error}") from None
    return np.stack([found[row] for row in wanted])


def _spread(labels: Labels, count: int, rng: np.random.Generator) -> list[int]:
    """`count` rows, or all where there are fewer: one of each class in turn, classes and rows in random order."""
    shuffled = rng.permutation(len(labels))
    place = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        of_class = shuffled[labels[shuffled] == label]
        place[of_class] = np.arange(len(of_class))
    return [int(row) for row in shuffled[np.argsort(place[shuffled], kind="stable")][:count]]
