"""Synthetic blood cells for demos and tests: any number, imbalanced like the real ones, the same for the same seed.

The images and their order depend on count, size and seed; each image draws from a seed of its own, so drawing in any
order or in parallel gives the same bytes. Stain, light, position, focus and noise vary so much that a linear classifier
of the pixels is weak: on 1,600 cells of 48 pixels a linear probe reaches 0.61, a CNN of three convolutions 0.97
after half a minute on a core.
"""

from __future__ import annotations

import tempfile
from itertools import groupby
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from hpo.data.cell_drawing import CELL_CLASSES, Image, draw_cell
from hpo.data.dataset import Progress
from hpo.errors import DataError

__all__ = ["CELL_CLASSES", "cells_arrays", "draw_cell", "write_cells"]

PBC_COUNTS = (1218, 3117, 1551, 2895, 1214, 1420, 3329, 2348)
"""Images per class of the PBC set, in the order of CELL_CLASSES (Acevedo et al. 2020, Data in Brief 30)."""

JPEG_QUALITY = 90


def cells_arrays(count: int, size: int = 96, seed: int = 0) -> tuple[Image, npt.NDArray[np.int64]]:
    """Return `count` images as (count, size, size, 3) uint8 RGB and labels as (count,) int64, in random order."""
    labels = _labels(count, seed, fewest=1)
    images = np.empty((count, size, size, 3), np.uint8)
    for index, label in enumerate(labels):
        images[index] = draw_cell(int(label), _image_seed(seed, index), size)
    return images, labels


def write_cells(
    out: Path, count: int, *, size: int = 96, seed: int = 0, splits: bool = False, progress: Progress | None = None
) -> None:
    """Write `count` cells as JPEGs into class folders of `out`, or of `out`/train, /val and /test (80/10/10 per class).

    `progress(done, total)` is called after every image. Raise DataError if `out` is a file, is not empty, or `count` is
    too small for every class to have an image in every part (two without splits); OSError if it cannot be written.
    """
    labels = _labels(count, seed, fewest=3 if splits else 2)
    parts = _parts(labels) if splits else [""] * count
    _require_empty(out)
    # Drawn in a hidden folder inside `out`, because `out` itself may be a mount; finished folders are moved last.
    with tempfile.TemporaryDirectory(prefix=".making-", dir=out) as hidden:
        for index, (label, part) in enumerate(zip(labels, parts, strict=True)):
            folder = Path(hidden, part, CELL_CLASSES[label])
            folder.mkdir(parents=True, exist_ok=True)
            picture = draw_cell(int(label), _image_seed(seed, index), size)
            (folder / f"cell_{index:06d}.jpg").write_bytes(_jpeg(picture))
            if progress:
                progress(index + 1, count)
        for folder in sorted(Path(hidden).iterdir()):
            folder.rename(out / folder.name)


def _labels(count: int, seed: int, fewest: int) -> npt.NDArray[np.int64]:
    """Return (count,) labels in random order: `fewest` of each class, the rest as in PBC, by largest remainder."""
    classes = len(CELL_CLASSES)
    rest = count - fewest * classes
    if rest < 0:
        raise DataError(f"{count} images are too few for {classes} classes: ask for at least {fewest * classes}")
    quotas = rest * np.array(PBC_COUNTS) / sum(PBC_COUNTS)
    counts = fewest + quotas.astype(np.int64)
    counts[np.argsort(-(quotas % 1), kind="stable")[: count - counts.sum()]] += 1
    return np.random.default_rng([seed, 0]).permutation(np.repeat(np.arange(classes), counts))


def _parts(labels: npt.NDArray[np.int64]) -> list[str]:
    """Return the part of each image: n/10 of a class's n images (one at least) val, as many test, the rest train."""
    parts = np.full(len(labels), "train", dtype="<U5")
    for _, group in groupby(np.argsort(labels, kind="stable"), key=labels.__getitem__):
        rows = np.array(list(group))
        held = max(1, round(len(rows) / 10))
        parts[rows[:held]] = "val"
        parts[rows[held : 2 * held]] = "test"
    return parts.tolist()


def _image_seed(seed: int, index: int) -> int:
    """Return a 64-bit seed of image `index`, unrelated to those of its neighbours."""
    return int(np.random.SeedSequence([seed, 1, index]).generate_state(1, np.uint64)[0])


def _jpeg(image: Image) -> bytes:
    """Return an RGB image as the bytes of a JPEG file."""
    _, encoded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return encoded.tobytes()


def _require_empty(out: Path) -> None:
    """Make the folder `out` if it is missing. Raise DataError if it is a file or not empty."""
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file, but must be a folder; name another")
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()):
        raise DataError(f"{out} is not empty; remove it, or name another folder")
