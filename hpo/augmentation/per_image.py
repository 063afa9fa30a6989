"""Steps made of albumentations' transforms, applied to one image after the other.

No other file imports albumentations (https://albumentations.ai, archived since June 2025). To replace it, write the
steps `colour`, `randaugment` and `corruption` anew; OpenCV has most of the operations. The draws of a seed then change.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import Any

import cv2
import numpy as np

from hpo.data.dataset import Images

_IMPORT_LOCK = threading.Lock()


class PerImage:
    """albumentations' transforms on one image after the other; two threads must not share it, since it keeps state."""

    def __init__(self, transforms: Sequence[Any]) -> None:
        self._compose = albumentations().Compose(list(transforms), is_check_shapes=False, strict=True)

    def __call__(self, images: Images, rng: np.random.Generator) -> Images:
        """Return a new batch; all draws come from `rng` and depend on the image's place in the batch."""
        plain = random.Random(int(rng.integers(2**63)))  # noqa: S311 - the second kind of generator albumentations draws from
        self._compose.set_random_state(rng, plain)
        out = np.empty_like(images)
        for source, target in zip(images, out, strict=True):
            target[:] = self._compose(image=source)["image"]
        return out


@cache
def albumentations() -> Any:
    """Import the module without its check for a newer version on the network; the environment stays as it was."""
    with _IMPORT_LOCK, _variable("NO_ALBUMENTATIONS_UPDATE", "1"):
        return import_module("albumentations")


@contextmanager
def _variable(name: str, value: str) -> Iterator[None]:
    """Set an environment variable inside the block."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def colour(strength: float) -> PerImage:
    """Return a step that changes brightness, contrast, gamma, hue and saturation, as stain, lamp and camera do."""
    return PerImage(_colour_transforms(strength))


def randaugment(strength: float, operations: int) -> PerImage:
    """Return the step of RandAugment (Cubuk et al. 2020): N = `operations` of one magnitude per image."""
    pool = [*_moving_operations(strength), *_shading_operations(strength)]
    return PerImage([albumentations().SomeOf(pool, n=operations)])


def corruption(strength: float, size: int) -> PerImage:
    """Return a step that changes colours and degrades images of `size` pixels: exposure, blur, noise, masks, JPEG."""
    damage = [_exposure(strength), _blur(strength, size), _noise(strength), _masks(strength, size), _jpeg(strength)]
    return PerImage([*_colour_transforms(strength), *damage])


def _colour_transforms(strength: float) -> list[Any]:
    a = albumentations()
    light, hue, saturation = 0.3 * strength, round(18 * strength), round(60 * strength)
    return [
        a.RandomBrightnessContrast(light, light, brightness_by_max=True, p=0.8),
        a.RandomGamma(_gamma_percent(1 + 0.5 * strength), p=0.5),
        a.HueSaturationValue(hue, saturation, val_shift_limit=0, p=0.5),
    ]


def _gamma_percent(widest: float) -> tuple[float, float]:
    """Return the range of exponents from 1/widest to widest, in per cent."""
    return 100 / widest, 100 * widest


def _moving_operations(strength: float) -> list[Any]:
    """Return RandAugment's operations that move pixels."""
    a = albumentations()
    changes: list[dict[str, Any]] = [
        {"rotate": _around(45 * strength)},
        {"shear": {"x": _around(18 * strength), "y": (0, 0)}},
        {"shear": {"x": (0, 0), "y": _around(18 * strength)}},
        {"translate_percent": {"x": _around(0.15 * strength), "y": (0, 0)}},
        {"translate_percent": {"x": (0, 0), "y": _around(0.15 * strength)}},
    ]
    return [a.Affine(**change, border_mode=cv2.BORDER_REFLECT_101, p=1) for change in changes]


def _shading_operations(strength: float) -> list[Any]:
    """Return RandAugment's operations that change values; those without a magnitude apply to a share of the images."""
    a = albumentations()
    return [
        a.RandomBrightnessContrast(0.4 * strength, 0, p=1),
        a.RandomBrightnessContrast(0, 0.5 * strength, p=1),
        a.HueSaturationValue(0, round(90 * strength), 0, p=1),
        a.Sharpen(alpha=(0, 0.8 * strength), lightness=(1, 1), p=1),
        a.Posterize(round(7 - 3 * strength), p=strength),
        a.Solarize((1 - 0.5 * strength, 1), p=strength),
        a.AutoContrast(p=strength),
        a.Equalize(p=strength),
    ]


def _exposure(strength: float) -> Any:
    """Return a transform to images far too dark or too bright."""
    a = albumentations()
    return a.RandomBrightnessContrast(0.4 * strength, 0.4 * strength, p=0.5 * strength)


def _blur(strength: float, size: int) -> Any:
    """Return a transform to images out of focus, moved, or taken at a lower resolution."""
    a = albumentations()
    sigma, longest = 0.025 * size * strength, 2 * round(size * strength / 24) + 3
    areas = {"downscale": cv2.INTER_AREA, "upscale": cv2.INTER_LINEAR}
    blurs = [
        a.GaussianBlur(blur_limit=0, sigma_limit=(0.3 * sigma, sigma)),
        a.MotionBlur(blur_limit=(3, longest)),
        a.Downscale((1 - 0.7 * strength, 1 - 0.3 * strength), interpolation_pair=areas),
    ]
    return a.OneOf(blurs, p=0.5 * strength)


def _noise(strength: float) -> Any:
    """Return a transform that adds noise of the sensor, speckle, or dead pixels."""
    a = albumentations()
    speckle = 0.35 * strength
    noises = [
        a.GaussNoise(std_range=(0.05 * strength, 0.18 * strength)),
        a.MultiplicativeNoise((1 - speckle, 1 + speckle), per_channel=True, elementwise=True),
        a.SaltAndPepper(amount=(0.01 * strength, 0.06 * strength)),
    ]
    return a.OneOf(noises, p=0.5 * strength)


def _masks(strength: float, size: int) -> Any:
    """Return a transform that hides at most a quarter of the image under rectangles or a grid in random colours."""
    a = albumentations()
    side = (0.05, 0.05 + 0.2 * strength)
    cut = a.CoarseDropout((1, 1 + round(3 * strength)), side, side, fill="random_uniform")
    grid = a.GridDropout(0.1 + 0.4 * strength, unit_size_range=(size // 8, size // 4), fill="random_uniform")
    return a.OneOf([cut, grid], p=0.5 * strength)


def _jpeg(strength: float) -> Any:
    """Return a transform that compresses as JPEG does."""
    a = albumentations()
    return a.ImageCompression("jpeg", (round(95 - 75 * strength), round(95 - 40 * strength)), p=0.5 * strength)


def _around(limit: float) -> tuple[float, float]:
    return -limit, limit
