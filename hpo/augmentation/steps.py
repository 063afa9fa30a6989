"""Steps that hide a part of the image: GridMask, CutOut, and a mask about the centre.

What is hidden gets ImageNet's mean colour, which a network sees as about zero: so the papers fill it. At any strength
enough of a subject in the centre stays to be recognised: the squares of a grid are smaller than it, a cut-out square
never lies over the centre, and a circle keeps it.

The steps that augmenters are made of. Each takes a batch and a generator and gives a new batch.

Dihedral, ChannelShuffle and Warp are ours: the first two move whole batches; the third joins symmetry, rotation, scale,
shear and translation in one resampling at half the time of albumentations' Affine (80 and 160 µs for an image of 96
pixels). So are the steps of `masks` and `augmix`. Everything else is albumentations', one image after the other, behind
PerImage.
"""

from __future__ import annotations

import math
import os
import random
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from itertools import permutations
from types import MappingProxyType
from typing import Any, Protocol, cast

import cv2
import numpy as np
import numpy.typing as npt

from hpo.data.dataset import Images
from search_spaces import Symmetry

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


Floats = npt.NDArray[np.float64]

_IMPORT_LOCK = threading.Lock()


class Step(Protocol):
    """One transformation of a batch."""

    def __call__(self, images: Images, rng: np.random.Generator) -> Images:
        """(b, S, S, 3) uint8 in, a new array of the same shape out."""


@dataclass(frozen=True)
class Dihedral:
    """Symmetries of the square: left-right mirroring, or four rotations by 90°, each with and without a mirroring."""

    share: float
    """Part of the images that get a symmetry, drawn evenly from those (so one in two or eight stays as it is)."""
    symmetry: Symmetry = "dihedral"

    def __call__(self, images: Images, rng: np.random.Generator) -> Images:
        """A step per symmetry, none per image."""
        drawn = draw_symmetries(rng, len(images), self.share, self.symmetry)
        out = images.copy()
        for number in range(1, 8):
            rows = np.flatnonzero(drawn == number)
            out[rows] = _moved(images[rows], number)
        return out


@dataclass(frozen=True)
class Warp:
    """One affine resampling about the image's centre, bilinear; what comes in from outside is the image reflected."""

    share: float
    """Part of the images that get one of the symmetries."""
    degrees: float
    """Rotation, drawn evenly from ± this."""
    zoom: float
    """Factor on the side, drawn evenly on a log scale from 1/zoom to zoom."""
    shift: float
    """Translation along each axis, drawn evenly from ± this fraction of the side."""
    shear: float
    """Shear angle in degrees, drawn evenly from ± this."""
    symmetry: Symmetry = "dihedral"

    def __call__(self, images: Images, rng: np.random.Generator) -> Images:
        """Matrices are drawn for the whole batch; only the resampling goes image by image."""
        count, size = images.shape[:2]
        out = np.empty_like(images)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        for source, matrix, target in zip(images, self._matrices(rng, count, size), out, strict=True):
            target[:] = cv2.warpAffine(source, matrix, (size, size), None, flags, cv2.BORDER_REFLECT_101)
        return out

    def _matrices(self, rng: np.random.Generator, count: int, size: int) -> Floats:
        """(count, 2, 3) maps from a pixel of the result to one of the source."""
        linear = _SYMMETRIES[draw_symmetries(rng, count, self.share, self.symmetry)]
        linear = linear @ _rotations(np.deg2rad(rng.uniform(-self.degrees, self.degrees, count)))
        linear = linear @ _shears(np.tan(np.deg2rad(rng.uniform(-self.shear, self.shear, count))))
        linear = linear / self.zoom ** rng.uniform(-1, 1, (count, 1, 1))
        centre = np.full((2, 1), (size - 1) / 2)
        shift = rng.uniform(-self.shift, self.shift, (count, 2, 1)) * size
        return np.concatenate([linear, centre - linear @ (centre + shift)], axis=2)


@dataclass(frozen=True)
class ChannelShuffle:
    """The three channels in another order."""

    share: float
    """Part of the images that get one of the five other orders, drawn evenly."""

    def __call__(self, images: Images, rng: np.random.Generator) -> Images:
        """A step per order, none per image."""
        drawn = np.where(rng.random(len(images)) < self.share, rng.integers(1, len(_ORDERS), len(images)), 0)
        out = images.copy()
        for number in range(1, len(_ORDERS)):
            rows = np.flatnonzero(drawn == number)
            if len(rows):
                out[rows] = reordered(images[rows], _ORDERS[number])
        return out


class PerImage:
    """albumentations' transforms on one image after the other. Not for two threads at once: they keep state."""

    def __init__(self, transforms: Sequence[Any]) -> None:
        self._compose = albumentations().Compose(list(transforms), is_check_shapes=False, strict=True)

    def __call__(self, images: Images, rng: np.random.Generator) -> Images:
        """All draws come from `rng`, the image's place in the batch included."""
        plain = random.Random(int(rng.integers(2**63)))  # noqa: S311 - the second kind of generator albumentations draws from
        self._compose.set_random_state(rng, plain)
        out = np.empty_like(images)
        for source, target in zip(images, out, strict=True):
            target[:] = self._compose(image=source)["image"]
        return out


@cache
def albumentations() -> Any:
    """The module, imported without its look for a newer version on the network; the environment is left as it was."""
    with _IMPORT_LOCK, _variable("NO_ALBUMENTATIONS_UPDATE", "1"):
        return import_module("albumentations")


@contextmanager
def _variable(name: str, value: str) -> Iterator[None]:
    """An environment variable set for a moment."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def draw_symmetries(rng: np.random.Generator, count: int, share: float, symmetry: Symmetry) -> npt.NDArray[np.int64]:
    """(count,) numbers of symmetries: for a share of the images any that `symmetry` allows, 0 (none) for the others."""
    allowed = SYMMETRIES[symmetry]
    drawn = rng.random(count) < share
    return np.where(drawn, allowed[rng.integers(0, len(allowed), count)], 0)


def reordered(images: Images, order: Sequence[int]) -> Images:
    """(b, S, S, 3) with channel `order[c]` in the place of channel c."""
    flat = np.ascontiguousarray(images).reshape(-1, images.shape[2], 3)
    out = np.empty_like(flat)
    cv2.mixChannels([flat], [out], [number for c, source in enumerate(order) for number in (source, c)])
    return out.reshape(images.shape)


def _moved(images: Images, number: int) -> Images:
    """Symmetry `number` of a batch: number % 4 quarter turns, after a left-right flip where number >= 4."""
    flipped = images[:, :, ::-1] if number >= 4 else images
    return np.rot90(flipped, number % 4, axes=(1, 2))


def _rotations(radians: Floats) -> Floats:
    """(n, 2, 2) rotations."""
    cos, sin = np.cos(radians), np.sin(radians)
    return np.stack([cos, -sin, sin, cos], axis=1).reshape(-1, 2, 2)


def _shears(slopes: Floats) -> Floats:
    """(n, 2, 2) horizontal shears; with a rotation before it, any shear."""
    one, zero = np.ones_like(slopes), np.zeros_like(slopes)
    return np.stack([one, slopes, zero, one], axis=1).reshape(-1, 2, 2)


SYMMETRIES: Mapping[Symmetry, npt.NDArray[np.int64]] = MappingProxyType(
    {"none": np.array([0]), "mirror": np.array([0, 4]), "dihedral": np.arange(8)}
)
"""The numbers of the symmetries that leave labels true, as `_moved` numbers them."""

_ORDERS = tuple(permutations(range(3)))
"""The six orders of the channels; the first is theirs."""

_QUARTER_TURNS = np.round(_rotations(np.arange(4) * np.pi / 2))

_SYMMETRIES = cast(Floats, np.concatenate([_QUARTER_TURNS, np.diag([-1.0, 1.0]) @ _QUARTER_TURNS]))
"""(8, 2, 2): the symmetries as matrices."""
