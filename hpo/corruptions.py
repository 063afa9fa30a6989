"""Ten corruptions of an image, each in five severities.

They follow ImageNet-C (Hendrycks and Dietterich 2019), with magnitudes for small images; lengths are fractions of the
side. They measure models, so they are independent of the augmentations that train them (`hpo.augmentation.families`).
They are the search corruptions: the altered part (`hpo.evaluation.altered_part`), by which a search with a robustness
above 0 chooses, is made of them too. What such a search chose is measured fairly by `hpo.unseen_corruptions` alone.
At every severity a person still recognises the class; masks leave at least half of a subject in the centre.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from hpo.corruption_family import SEVERITIES, Corruption, CorruptionFamily, Image, rounded

__all__ = ["CORRUPTIONS", "SEEN", "SEVERITIES", "VERSION", "corrupt"]

VERSION = 2
"""The version of the corruptions. It goes up with any change of their results."""


def _noise(image: Image, step: int, rng: np.random.Generator) -> Image:
    """Add independent normal noise to each value."""
    deviation = (10, 20, 30, 45, 65)[step]
    return rounded(image + deviation * rng.standard_normal(image.shape, np.float32))


def _blur(image: Image, step: int, rng: np.random.Generator) -> Image:
    """Blur with a Gaussian."""
    sigma = (0.01, 0.016, 0.022, 0.03, 0.04)[step] * len(image)
    return _image(cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101))


def _brightness(image: Image, step: int, rng: np.random.Generator) -> Image:
    """Make all pixels lighter or darker by one amount."""
    return rounded(image + np.float32(_sign(rng) * (20, 40, 60, 80, 100)[step]))


def _contrast(image: Image, step: int, rng: np.random.Generator) -> Image:
    """Reduce the contrast about the image's mean."""
    mean = np.float32(image.mean())
    return rounded(mean + np.float32((0.75, 0.6, 0.45, 0.3, 0.2)[step]) * (image - mean))


def _hue(image: Image, step: int, rng: np.random.Generator) -> Image:
    """Rotate the hue, in either direction."""
    hsv = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0] + _sign(rng) * (15, 30, 45, 60, 80)[step]) % 360
    return rounded(255 * np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), np.float32))


def _rotation(image: Image, step: int, rng: np.random.Generator) -> Image:
    """Rotate about the centre, in either direction, with the image reflected at its borders."""
    middle = (len(image) - 1) / 2
    matrix = cv2.getRotationMatrix2D((middle, middle), _sign(rng) * (8, 16, 24, 34, 45)[step], 1)
    side = (len(image), len(image))
    return _image(cv2.warpAffine(image, matrix, side, None, cv2.INTER_LINEAR, cv2.BORDER_REFLECT_101))


def _jpeg(image: Image, step: int, rng: np.random.Generator) -> Image:
    """Compress at a low quality."""
    quality = (40, 25, 15, 10, 6)[step]
    _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return _image(cv2.imdecode(data, cv2.IMREAD_COLOR))[..., ::-1]


def _grid_mask(image: Image, step: int, rng: np.random.Generator) -> Image:
    """Draw black squares on a grid with a period of a sixth to a quarter of the side."""
    unit = rng.uniform(1 / 6, 1 / 4) * len(image)
    hidden = (np.arange(len(image)) + rng.uniform(0, unit, (2, 1))) % unit < (0.15, 0.25, 0.35, 0.5, 0.65)[step] * unit
    return _blackened(image, hidden[0], hidden[1])


def _cut_mask(image: Image, step: int, rng: np.random.Generator) -> Image:
    """Draw one black square, whole and on one side of the centre."""
    side = (0.15, 0.25, 0.33, 0.41, 0.5)[step]
    aside = rng.uniform(0, 0.5 - side)
    places = [aside if rng.random() < 0.5 else 1 - side - aside, rng.uniform(0, 1 - side)]
    hidden = [_within(len(image), place, side) for place in rng.permutation(places)]
    return _blackened(image, hidden[0], hidden[1])


def _channel_shuffle(image: Image, step: int, rng: np.random.Generator) -> Image:
    """Mix the image with a copy of permuted channels; at severity 5 return the copy alone."""
    orders = ((0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
    share = np.float32((step + 1) / len(SEVERITIES))
    return rounded((1 - share) * image + share * image[..., orders[rng.integers(len(orders))]])


_FUNCTIONS: Mapping[str, Corruption] = MappingProxyType(
    {
        "noise": _noise,
        "blur": _blur,
        "brightness": _brightness,
        "contrast": _contrast,
        "hue": _hue,
        "rotation": _rotation,
        "jpeg": _jpeg,
        "grid-mask": _grid_mask,
        "cut-mask": _cut_mask,
        "channel-shuffle": _channel_shuffle,
    }
)

SEEN = CorruptionFamily("seen", VERSION, _FUNCTIONS)

CORRUPTIONS = SEEN.kinds
"""The names of the corruptions, in the order in which results are shown."""


def corrupt(image: Image, name: str, severity: int, rng: np.random.Generator) -> Image:
    """Return a new image (S, S, 3) uint8 RGB with the corruption `name` of CORRUPTIONS at a severity from 1 to 5.

    Raise UsageError for another name or severity.
    """
    return SEEN.corrupt(image, name, severity, rng)


def _sign(rng: np.random.Generator) -> int:
    return 1 if rng.random() < 0.5 else -1


def _within(size: int, start: float, length: float) -> npt.NDArray[np.bool_]:
    """Return (S,) bool: the pixels of an axis in the interval at `start`, in fractions of the side."""
    places = (np.arange(size) + 0.5) / size - start
    return (places >= 0) & (places < length)


def _blackened(image: Image, rows: npt.NDArray[np.bool_], columns: npt.NDArray[np.bool_]) -> Image:
    """Return the image with black pixels where a hidden row (S,) meets a hidden column (S,)."""
    return image * ~(rows[:, None] & columns)[..., None]


def _image(pixels: Any) -> Image:
    """Return OpenCV's result, whose annotated type is wider, as an image."""
    return np.asarray(pixels, np.uint8)
