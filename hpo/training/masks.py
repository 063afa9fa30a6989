"""Steps that hide a part of the image: GridMask, CutOut, and a mask about the centre.

What is hidden gets ImageNet's mean colour, which a network sees as about zero: so the papers fill it. At any strength
enough of a subject in the centre stays to be recognised: the squares of a grid are smaller than it, a cut-out square
never lies over the centre, and a circle keeps it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Images = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

FILL = (124, 116, 104)
"""Mean colour of ImageNet, RGB."""


@dataclass(frozen=True)
class GridMask:
    """Squares on a grid (Chen et al. 2020): a unit of d pixels hides a square of (1 - r) d."""

    share: float
    """Part of the images that get a grid."""
    hidden: float
    """1 - r: side of the hidden squares over that of the unit; a grid hides the square of it of the image's area."""

    def __call__(self, images: Images, rng: np.random.Generator) -> Images:
        """d is drawn per image from an eighth to a quarter of the side: a square shall be smaller than a small subject.

        So is the place of the grid.
        """
        count, size = images.shape[:2]
        unit = rng.uniform(size / 8, size / 4, (count, 1))
        offset = rng.random((2, count, 1)) * unit
        side = np.where(rng.random((count, 1)) < self.share, self.hidden * unit, 0)
        rows, columns = (np.arange(size) + offset) % unit < side
        return covered(images, _rectangles(rows, columns))


@dataclass(frozen=True)
class CutOut:
    """One square per image, cut off at the border (DeVries and Taylor 2017), but never over the centre."""

    side: float
    """Of the square, as a fraction of the image's."""

    def __call__(self, images: Images, rng: np.random.Generator) -> Images:
        """Along one axis the square keeps to one half of the image, along the other it lies anywhere."""
        count, size = images.shape[:2]
        near = rng.uniform(0, (1 - self.side) / 2, count)
        aside = np.where(rng.random(count) < 0.5, near, 1 - near)
        anywhere = rng.random(count)
        upright = rng.random(count) < 0.5
        rows = self._covers(np.where(upright, aside, anywhere), size)
        columns = self._covers(np.where(upright, anywhere, aside), size)
        return covered(images, _rectangles(rows, columns))

    def _covers(self, centres: npt.NDArray[Any], size: int) -> Mask:
        """(b, S): the pixels along one axis that squares about `centres` (b,), in fractions of the side, hide."""
        distances: npt.NDArray[np.float64] = np.abs((np.arange(size) + 0.5) / size - centres[:, None])
        return distances < self.side / 2


@dataclass(frozen=True)
class CircleMask:
    """Everything outside a circle about the centre; its radius is drawn per image."""

    share: float
    """Part of the images that get a circle."""
    radius: float
    """Of the smallest circle, as a fraction of the side; the largest reaches the corners and hides nothing."""

    def __call__(self, images: Images, rng: np.random.Generator) -> Images:
        """Radii are drawn evenly between the two."""
        count, size = images.shape[:2]
        radii = np.where(rng.random(count) < self.share, rng.uniform(self.radius, math.sqrt(0.5), count), 1) * size
        middle = np.arange(size) - (size - 1) / 2
        distance = np.hypot(middle[:, None], np.repeat(middle, 3))
        return covered(images, distance.astype(np.float32) > radii.astype(np.float32)[:, None, None])


def covered(images: Images, hidden: Mask) -> Images:
    """A new batch (b, S, S, 3) with FILL where `hidden` (b, S, 3 S) says so, each pixel's channels side by side.

    Bytes are masked, not selected: that is ten times as fast.
    """
    bits = np.negative(hidden.view(np.uint8))  # 255 where hidden
    fill = np.tile(np.array(FILL, np.uint8), images.shape[2])
    flat = images.reshape(hidden.shape)
    return ((flat & ~bits) | (fill & bits)).reshape(images.shape)


def _rectangles(rows: Mask, columns: Mask) -> Mask:
    """(b, S, 3 S): where a hidden row (b, S) meets a hidden column (b, S)."""
    return rows[:, :, None] & np.repeat(columns, 3, axis=1)[:, None, :]
