"""The steps of our own that augmenters are made of: each takes a batch and a generator and returns a new batch.

Dihedral and ChannelShuffle move whole batches. Warp joins symmetry, rotation, scale, shear and translation in one
resampling, at half the time of albumentations' Affine (80 and 160 µs for an image of 96 pixels).

GridMask, CutOut and CircleMask hide a part of the image under ImageNet's mean colour, which a network sees as about
zero, as in their papers. At any strength enough of a subject in the centre stays recognisable: the squares of a grid
are smaller than it, a cut-out square never covers the centre, and a circle keeps it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from types import MappingProxyType
from typing import Any, Protocol, cast

import cv2
import numpy as np
import numpy.typing as npt

from hpo.data.dataset import Images
from search_spaces import Symmetry

Mask = npt.NDArray[np.bool_]

Floats = npt.NDArray[np.float64]


class Step(Protocol):
    """Transforms a batch."""

    def __call__(self, images: Images, rng: np.random.Generator) -> Images:
        """Return a new array of the same shape for images (b, S, S, 3) uint8."""


@dataclass(frozen=True)
class Dihedral:
    """Applies symmetries of the square: left-right mirroring, or four rotations by 90°, with and without mirroring."""

    share: float
    """Share of the images that get a symmetry, drawn evenly from all (so one in two or eight of them is unchanged)."""
    symmetry: Symmetry = "dihedral"

    def __call__(self, images: Images, rng: np.random.Generator) -> Images:
        """Return the images, each under the symmetry drawn for it."""
        drawn = draw_symmetries(rng, len(images), self.share, self.symmetry)
        out = images.copy()
        for number in range(1, 8):
            rows = np.flatnonzero(drawn == number)
            out[rows] = _transformed(images[rows], number)
        return out


@dataclass(frozen=True)
class Warp:
    """Resamples images affinely about their centres, bilinear; beyond the border the image is reflected."""

    share: float
    """Share of the images that get one of the symmetries."""
    degrees: float
    """Largest rotation; drawn evenly from ± this."""
    zoom: float
    """Largest factor on the side; drawn evenly on a log scale from 1/zoom to zoom."""
    shift: float
    """Largest translation along each axis, as a fraction of the side; drawn evenly from ± this."""
    shear: float
    """Largest shear angle in degrees; drawn evenly from ± this."""
    symmetry: Symmetry = "dihedral"

    def __call__(self, images: Images, rng: np.random.Generator) -> Images:
        """Return the images, each resampled by a matrix drawn for it."""
        count, size = images.shape[:2]
        out = np.empty_like(images)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        for source, matrix, target in zip(images, self._matrices(rng, count, size), out, strict=True):
            target[:] = cv2.warpAffine(source, matrix, (size, size), None, flags, cv2.BORDER_REFLECT_101)
        return out

    def _matrices(self, rng: np.random.Generator, count: int, size: int) -> Floats:
        """Return (count, 2, 3) maps from a pixel of the result to one of the source."""
        linear = _SYMMETRIES[draw_symmetries(rng, count, self.share, self.symmetry)]
        linear = linear @ _rotations(np.deg2rad(rng.uniform(-self.degrees, self.degrees, count)))
        linear = linear @ _shears(np.tan(np.deg2rad(rng.uniform(-self.shear, self.shear, count))))
        linear = linear / self.zoom ** rng.uniform(-1, 1, (count, 1, 1))
        centre = np.full((2, 1), (size - 1) / 2)
        shift = rng.uniform(-self.shift, self.shift, (count, 2, 1)) * size
        return np.concatenate([linear, centre - linear @ (centre + shift)], axis=2)


@dataclass(frozen=True)
class ChannelShuffle:
    """Reorders the three channels."""

    share: float
    """Share of the images that get one of the five other orders, drawn evenly."""

    def __call__(self, images: Images, rng: np.random.Generator) -> Images:
        """Return the images, each with its channels in the order drawn for it."""
        drawn = np.where(rng.random(len(images)) < self.share, rng.integers(1, len(_ORDERS), len(images)), 0)
        out = images.copy()
        for number in range(1, len(_ORDERS)):
            rows = np.flatnonzero(drawn == number)
            if len(rows):
                out[rows] = reordered(images[rows], _ORDERS[number])
        return out


@dataclass(frozen=True)
class Mixture:
    """Gives each image one of several families, drawn evenly."""

    families: tuple[tuple[Step, ...], ...]

    def __call__(self, images: Images, rng: np.random.Generator) -> Images:
        """Return the images, each under the steps of the family drawn for it."""
        drawn = rng.integers(0, len(self.families), len(images))
        out = images.copy()
        for number, steps in enumerate(self.families):
            rows = np.flatnonzero(drawn == number)
            batch = images[rows]
            for step in steps if len(rows) else ():
                batch = step(batch, rng)
            out[rows] = batch
        return out


def draw_symmetries(rng: np.random.Generator, count: int, share: float, symmetry: Symmetry) -> npt.NDArray[np.int64]:
    """Draw (count,) numbers of symmetries: for a share of the images any that `symmetry` allows, 0 for the others."""
    allowed = SYMMETRIES[symmetry]
    drawn = rng.random(count) < share
    return np.where(drawn, allowed[rng.integers(0, len(allowed), count)], 0)


def reordered(images: Images, order: Sequence[int]) -> Images:
    """Return the images (b, S, S, 3) with channel `order[c]` in the place of channel c."""
    flat = np.ascontiguousarray(images).reshape(-1, images.shape[2], 3)
    out = np.empty_like(flat)
    cv2.mixChannels([flat], [out], [number for c, source in enumerate(order) for number in (source, c)])
    return out.reshape(images.shape)


def _transformed(images: Images, number: int) -> Images:
    """Apply symmetry `number`: number % 4 quarter turns, after a left-right flip if number >= 4."""
    flipped = images[:, :, ::-1] if number >= 4 else images
    return np.rot90(flipped, number % 4, axes=(1, 2))


def _rotations(radians: Floats) -> Floats:
    """Return (n, 2, 2) rotations."""
    cos, sin = np.cos(radians), np.sin(radians)
    return np.stack([cos, -sin, sin, cos], axis=1).reshape(-1, 2, 2)


def _shears(slopes: Floats) -> Floats:
    """Return (n, 2, 2) horizontal shears; a rotation before it turns such a shear into any other."""
    one, zero = np.ones_like(slopes), np.zeros_like(slopes)
    return np.stack([one, slopes, zero, one], axis=1).reshape(-1, 2, 2)


SYMMETRIES: Mapping[Symmetry, npt.NDArray[np.int64]] = MappingProxyType(
    {"none": np.array([0]), "mirror": np.array([0, 4]), "dihedral": np.arange(8)}
)
"""The numbers, as in `_transformed`, of the symmetries under which labels stay true."""

_ORDERS = tuple(permutations(range(3)))
"""The six orders of the channels; the first changes nothing."""

_QUARTER_TURNS = np.round(_rotations(np.arange(4) * np.pi / 2))

_SYMMETRIES = cast(Floats, np.concatenate([_QUARTER_TURNS, np.diag([-1.0, 1.0]) @ _QUARTER_TURNS]))
"""The symmetries as matrices (8, 2, 2)."""

FILL = (124, 116, 104)
"""Mean colour of ImageNet, RGB."""


@dataclass(frozen=True)
class GridMask:
    """Hides squares on a grid (Chen et al. 2020): of each unit of d pixels a square of (1 - r) d."""

    share: float
    """Share of the images that get a grid."""
    hidden: float
    """1 - r: side of the hidden squares over that of the unit; its square is the share of the area that is hidden."""

    def __call__(self, images: Images, rng: np.random.Generator) -> Images:
        """Return the images, each under a grid whose d and place are drawn for it."""
        count, size = images.shape[:2]
        # From an eighth to a quarter of the side: a square must be smaller than a small subject.
        unit = rng.uniform(size / 8, size / 4, (count, 1))
        offset = rng.random((2, count, 1)) * unit
        side = np.where(rng.random((count, 1)) < self.share, self.hidden * unit, 0)
        rows, columns = (np.arange(size) + offset) % unit < side
        return covered(images, _rectangles(rows, columns))


@dataclass(frozen=True)
class CutOut:
    """Hides one square per image, clipped at the border (DeVries and Taylor 2017), which never covers the centre."""

    side: float
    """Side of the square as a fraction of the image's side."""

    def __call__(self, images: Images, rng: np.random.Generator) -> Images:
        """Return the images, each without a square drawn for it."""
        # Along one axis the square stays in one half of the image, along the other it lies anywhere.
        count, size = images.shape[:2]
        near = rng.uniform(0, (1 - self.side) / 2, count)
        aside = np.where(rng.random(count) < 0.5, near, 1 - near)
        anywhere = rng.random(count)
        upright = rng.random(count) < 0.5
        rows = self._covers(np.where(upright, aside, anywhere), size)
        columns = self._covers(np.where(upright, anywhere, aside), size)
        return covered(images, _rectangles(rows, columns))

    def _covers(self, centres: npt.NDArray[Any], size: int) -> Mask:
        """Return (b, S): the pixels along one axis hidden by squares about `centres` (b,), in fractions of the side."""
        distances: npt.NDArray[np.float64] = np.abs((np.arange(size) + 0.5) / size - centres[:, None])
        return distances < self.side / 2


@dataclass(frozen=True)
class CircleMask:
    """Hides everything outside a circle about the centre."""

    share: float
    """Share of the images that get a circle."""
    radius: float
    """Radius of the smallest circle as a fraction of the side; the largest reaches the corners and hides nothing."""

    def __call__(self, images: Images, rng: np.random.Generator) -> Images:
        """Return the images, each within a circle whose radius is drawn evenly from the smallest to the largest."""
        count, size = images.shape[:2]
        radii = np.where(rng.random(count) < self.share, rng.uniform(self.radius, math.sqrt(0.5), count), 1) * size
        middle = np.arange(size) - (size - 1) / 2
        distance = np.hypot(middle[:, None], np.repeat(middle, 3))
        return covered(images, distance.astype(np.float32) > radii.astype(np.float32)[:, None, None])


def covered(images: Images, hidden: Mask) -> Images:
    """Return a new batch (b, S, S, 3) with FILL where `hidden` (b, S, 3 S), three channels per pixel, is True."""
    # Bytes are masked, not selected, which is ten times as fast.
    bits = np.negative(hidden.view(np.uint8))  # 255 where hidden
    fill = np.tile(np.array(FILL, np.uint8), images.shape[2])
    flat = images.reshape(hidden.shape)
    return ((flat & ~bits) | (fill & bits)).reshape(images.shape)


def _rectangles(rows: Mask, columns: Mask) -> Mask:
    """Return (b, S, 3 S): True where a hidden row (b, S) meets a hidden column (b, S)."""
    return rows[:, :, None] & np.repeat(columns, 3, axis=1)[:, None, :]
