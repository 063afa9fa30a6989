"""The steps that augmenters are made of. Each takes a batch and a generator and gives a new batch.

Dihedral, ChannelShuffle and Warp are ours: the first two move whole batches; the third joins symmetry, rotation, scale,
shear and translation in one resampling at half the time of albumentations' Affine (80 and 160 µs for an image of 96
pixels). So are the steps of `masks` and `augmix`. Everything else is albumentations', one image after the other, behind
PerImage.
"""

from __future__ import annotations

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

from search_spaces import Symmetry

Images = npt.NDArray[np.uint8]
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
