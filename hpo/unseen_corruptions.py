"""Fifteen corruptions of an image that no search sees, each in five severities; they only report what a model does.

Eleven are those that MedMNIST-C (Di Salvo, Doerrich and Ledig 2024, arXiv 2406.17536) chose for images of blood cells,
with its published parameters for them; four join two of these. The parameters are for a side of 224 pixels, so lengths
are fractions of the side here. Where the paper's code draws a strength below a greatest one, its range is kept, so that
the five severities differ. At every severity a person still recognises the class.

Nothing of this file may reach training, search or augmentation: a figure on corruptions that a search has chosen by is
no figure on new ones. `tests/test_architecture.py` checks it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import cv2
import numpy as np
import numpy.typing as npt

from hpo.corruption_family import Corruption, CorruptionFamily, Image, rounded

VERSION = 1
"""The version of the corruptions. It goes up with any change of their results."""

_SIDE = 224
"""Pixels of the side for which the lengths were published."""

Floats = npt.NDArray[np.float32]

Places = npt.NDArray[np.float64]


def _pixelation(image: Image, step: int, rng: np.random.Generator) -> Image:
    """Reduce the image to a share of its side, and enlarge each pixel again to a square of one colour."""
    side = len(image)
    small = max(1, round((0.6, 0.5, 0.4, 0.3, 0.25)[step] * side))
    reduced = cv2.resize(image, (small, small), interpolation=cv2.INTER_AREA)
    squares = reduced.repeat(-(-side // small), axis=0).repeat(-(-side // small), axis=1)
    return np.asarray(cv2.resize(squares, (side, side), interpolation=cv2.INTER_AREA), np.uint8)


def _compression(image: Image, step: int, rng: np.random.Generator) -> Image:
    """Store the image as a JPEG of low quality."""
    options = [cv2.IMWRITE_JPEG_QUALITY, (50, 30, 15, 10, 7)[step]]
    _, stored = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    return np.asarray(cv2.cvtColor(np.asarray(cv2.imdecode(stored, cv2.IMREAD_COLOR)), cv2.COLOR_BGR2RGB), np.uint8)


def _defocus(image: Image, step: int, rng: np.random.Generator) -> Image:
    """Spread each point over a disc, as a lens does that is out of focus."""
    radius = (2, 3, 4, 5, 6)[step] / _SIDE * len(image)
    rows, columns = np.mgrid[-1:1:33j, -1:1:33j]
    inside = np.hypot(rows, columns) <= 1
    return _filtered(image, _kernel(radius * rows[inside], radius * columns[inside], np.ones(int(inside.sum()))))


def _motion(image: Image, step: int, rng: np.random.Generator) -> Image:
    """Smear the image along a line that is at most 45 degrees from the horizontal, with half a Gaussian as weights."""
    radius, deviation = ((3, 3), (5, 5), (10, 5), (10, 7), (10, 9))[step]
    angle = np.deg2rad(rng.uniform(-45, 45))
    along = np.linspace(0, 2 * radius, 16 * radius + 1)
    weights = np.exp(-0.5 * (along / deviation) ** 2)
    along = (along - np.average(along, weights=weights)) / _SIDE * len(image)  # the image stays in its place
    return _filtered(image, _kernel(along * np.sin(angle), along * np.cos(angle), weights))


def _kernel(rows: Places, columns: Places, weights: Places) -> Floats:
    """Return a kernel with `weights` (k,) at places relative to its middle, each shared by the four pixels about it."""
    reach = int(np.ceil(max(np.abs(rows).max(), np.abs(columns).max()))) + 1
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
    top, left = np.floor(rows).astype(int), np.floor(columns).astype(int)
    below, right = rows - top, columns - left
    for down, across in ((0, 0), (0, 1), (1, 0), (1, 1)):
        share = np.abs(1 - down - below) * np.abs(1 - across - right)
        np.add.at(kernel, (top + down + reach, left + across + reach), weights * share)
    return kernel


def _filtered(image: Image, kernel: Floats) -> Image:
    """Return the image under a kernel, scaled to a sum of 1, with the image reflected at its borders."""
    scaled = (kernel / kernel.sum()).astype(np.float32)
    return np.asarray(cv2.filter2D(image, -1, scaled, borderType=cv2.BORDER_REFLECT_101), np.uint8)


def _brighter(image: Image, step: int, rng: np.random.Generator) -> Image:
    """Multiply all values; what is near white becomes white."""
    return rounded(np.float32((1.1, 1.2, 1.3, 1.35, 1.4)[step]) * image)


def _darker(image: Image, step: int, rng: np.random.Generator) -> Image:
    """Multiply all values by less than 1."""
    return rounded(np.float32((0.9, 0.8, 0.7, 0.6, 0.5)[step]) * image)


def _more_contrast(image: Image, step: int, rng: np.random.Generator) -> Image:
    """Move all values away from the mean grey level."""
    return _about_grey(image, (1.1, 1.15, 1.2, 1.25, 1.3)[step])


def _less_contrast(image: Image, step: int, rng: np.random.Generator) -> Image:
    """Move all values towards the mean grey level."""
    return _about_grey(image, (0.9, 0.8, 0.7, 0.6, 0.5)[step])


def _about_grey(image: Image, factor: float) -> Image:
    """Return the image with its distance from its mean grey level multiplied."""
    grey = np.float32(np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)).mean())
    return rounded(grey + np.float32(factor) * (image - grey))


def _saturation(image: Image, step: int, rng: np.random.Generator) -> Image:
    """Add to the saturation of every pixel."""
    hsv = np.asarray(cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2HSV), np.float32)
    hsv[..., 1] = np.clip(hsv[..., 1] + (0.05, 0.1, 0.15, 0.17, 0.2)[step], 0, 1)
    return rounded(255 * np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), np.float32))


def _stain_deposits(image: Image, step: int, rng: np.random.Generator) -> Image:
    """Draw one to three black deposits with an uneven outline, as dried stain leaves them.

    The number is that of MedMNIST-C; the outlines, which it takes from pictures of ink, are drawn here.
    """
    number, greatest = (1, 2, 3, 3, 3)[step], (0.04, 0.04, 0.04, 0.05, 0.06)[step]
    places, sizes, turns = rng.uniform(0.08, 0.92, (2, 3)), rng.uniform(0.6, 1, 3), rng.uniform(0, 2 * np.pi, (2, 3))
    row, column = _offsets(len(image), places[:, :number])
    ray = column + 1j * row  # complex, so that powers give multiples of the angle
    distance = np.abs(ray)
    ray /= np.maximum(distance, np.float32(1e-6))
    three, five = np.exp(1j * turns[:, :number]).astype(np.complex64)[..., None, None]
    outline = 1 + 0.25 * (ray**3 * three).imag + 0.15 * (ray**5 * five).imag
    radius = (greatest * sizes[:number]).astype(np.float32)[:, None, None] * outline
    density = np.clip(0.5 + (radius - distance) / (0.35 * greatest), 0, 1).max(axis=0)
    return rounded((1 - np.float32(0.9) * density[..., None]) * image)


def _bubbles(image: Image, step: int, rng: np.random.Generator) -> Image:
    """Draw seven to twelve round bubbles, half transparent and white, with a brighter rim."""
    largest, most = ((5, 10), (7, 10), (10, 10), (12, 12), (15, 12))[step]
    number = 7 + int(rng.uniform() * (most - 6))
    radii = (3 + rng.uniform(size=12) * (largest - 3)) / _SIDE
    places = radii + rng.uniform(size=(2, 12)) * (1 - 2 * radii)
    row, column = _offsets(len(image), places[:, :number])
    outside = np.sqrt(row**2 + column**2) - radii[:number].astype(np.float32)[:, None, None]
    # In pixels, so that an edge is one pixel wide. A bubble has an opacity of 100 of 255, its rim of 130.
    inner = np.clip(0.5 - outside * len(image), 0, 1)
    outer = np.clip(0.5 - (outside - np.float32(2 / _SIDE)) * len(image), 0, 1)
    opacity = ((130 * outer - 30 * inner) / 255).max(axis=0)[..., None]
    return rounded(image + opacity * (np.float32(255) - image))


def _offsets(size: int, places: Places) -> tuple[Floats, Floats]:
    """Return (k, S, 1) and (k, 1, S): rows and columns less those of the `places` (2, k), in fractions of the side."""
    middles = (np.arange(size, dtype=np.float32) + 0.5) / size
    down, across = places.astype(np.float32)
    return middles[None, :, None] - down[:, None, None], middles[None, None, :] - across[:, None, None]


_OBJECTS: Mapping[str, Corruption] = {"stain-deposits": _stain_deposits, "bubbles": _bubbles}
"""These lie on the slide."""

_LIGHT: Mapping[str, Corruption] = {
    "brighter": _brighter,
    "darker": _darker,
    "more-contrast": _more_contrast,
    "less-contrast": _less_contrast,
    "saturation": _saturation,
}

_FOCUS: Mapping[str, Corruption] = {"defocus": _defocus, "motion": _motion}

_STORAGE: Mapping[str, Corruption] = {"pixelation": _pixelation, "compression": _compression}


def _joined(*groups: Mapping[str, Corruption]) -> Corruption:
    """Return the corruption that applies one of each group, drawn at random, in the order of the groups."""
    choices: Sequence[tuple[Corruption, ...]] = [tuple(group.values()) for group in groups]

    def apply(image: Image, step: int, rng: np.random.Generator) -> Image:
        for choice in choices:
            image = choice[rng.integers(len(choice))](image, step, rng)
        return image

    return apply


UNSEEN = CorruptionFamily(
    "unseen",
    VERSION,
    MappingProxyType(
        {
            **_STORAGE,
            **_FOCUS,
            **_LIGHT,
            **_OBJECTS,
            # In the order in which they happen: the slide, the lamp, the lens, the file.
            "light-and-focus": _joined(_LIGHT, _FOCUS),
            "light-and-storage": _joined(_LIGHT, _STORAGE),
            "objects-and-light": _joined(_OBJECTS, _LIGHT),
            "objects-and-focus": _joined(_OBJECTS, _FOCUS),
        }
    ),
)
