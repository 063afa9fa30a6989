"""What each family of augmentation does at a strength: the one place where a strength becomes magnitudes.

A family is a function of the configuration that gives its steps; FAMILIES names them all, and a new one is a new row.
EXTRAS are the steps that may follow whatever the family, each with a strength of its own.
The largest magnitudes keep the subject in the picture and its label true; images are mirrored and turned by quarters
only as far as the configuration's `symmetry` says that labels survive it. Magnitudes and shares grow with strength in
proportion, from nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import cv2

from hpo.augmentation.augmix import AugMix
from hpo.augmentation.steps import (
    ChannelShuffle,
    CircleMask,
    CutOut,
    Dihedral,
    GridMask,
    PerImage,
    Step,
    Warp,
    albumentations,
)
from search_spaces import TrialConfig

Family = Callable[[TrialConfig], tuple[Step, ...]]

Extra = Callable[[TrialConfig], Step]


def _none(config: TrialConfig) -> tuple[Step, ...]:
    return ()


def _flips(config: TrialConfig) -> tuple[Step, ...]:
    return (Dihedral(config.augmentation_strength, config.symmetry),)


def _geometric(config: TrialConfig) -> tuple[Step, ...]:
    return (_warp(config),)


def _colour(config: TrialConfig) -> tuple[Step, ...]:
    return (PerImage(_colour_transforms(config.augmentation_strength)),)


def _geometric_colour(config: TrialConfig) -> tuple[Step, ...]:
    return (*_geometric(config), *_colour(config))


def _randaugment(config: TrialConfig) -> tuple[Step, ...]:
    """Cubuk et al. 2020: N operations of one magnitude per image."""
    strength = config.augmentation_strength
    pool = [*_moving_operations(strength), *_shading_operations(strength)]
    return (PerImage([albumentations().SomeOf(pool, n=config.randaugment_operations)]),)


def _corruption(config: TrialConfig) -> tuple[Step, ...]:
    strength, size = config.augmentation_strength, config.image_size
    damage = [_exposure(strength), _blur(strength, size), _noise(strength), _masks(strength, size), _jpeg(strength)]
    return (_warp(config), PerImage([*_colour_transforms(strength), *damage]))


FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "none": _none,
        "flips": _flips,
        "geometric": _geometric,
        "colour": _colour,
        "geometric-colour": _geometric_colour,
        "randaugment": _randaugment,
        "corruption": _corruption,
    }
)
"""Every family by the name it has in `TrialConfig.augmentation`."""


def _augmix(config: TrialConfig) -> Step:
    return AugMix(config.augmix, beside=config.augmix_consistency > 0)


def _channel_shuffle(config: TrialConfig) -> Step:
    return ChannelShuffle(config.channel_shuffle)


def _gridmask(config: TrialConfig) -> Step:
    """Four images in five, as in the paper; at strength 0.8 its r of 0.6."""
    return GridMask(share=0.8 * config.gridmask, hidden=0.5 * config.gridmask)


def _cutout(config: TrialConfig) -> Step:
    """Half the side at most, as in the paper."""
    return CutOut(0.5 * config.cutout)


def _masking(config: TrialConfig) -> Step:
    """Half of the image stays in the smallest circle."""
    corner = 0.5**0.5
    return CircleMask(share=config.masking, radius=corner - (corner - 0.4) * config.masking)


EXTRAS: Mapping[str, Extra] = MappingProxyType(
    {
        "augmix": _augmix,
        "channel_shuffle": _channel_shuffle,
        "gridmask": _gridmask,
        "cutout": _cutout,
        "masking": _masking,
    }
)
"""What may follow the family, in this order, by the name of its strength in `TrialConfig`."""


def steps_of(config: TrialConfig) -> tuple[Step, ...]:
    """The steps of the configuration's family and of its extras; those of strength 0 are left out."""
    family = FAMILIES[config.augmentation](config) if config.augmentation_strength else ()
    return (*family, *(extra(config) for name, extra in EXTRAS.items() if getattr(config, name)))


def _warp(config: TrialConfig) -> Warp:
    """With ±45° beside the eight symmetries, every orientation is reached at strength 1."""
    strength = config.augmentation_strength
    return Warp(
        share=strength,
        symmetry=config.symmetry,
        degrees=45 * strength,
        zoom=1 + 0.25 * strength,
        shift=0.1 * strength,
        shear=12 * strength,
    )


def _colour_transforms(strength: float) -> list[Any]:
    """Brightness, contrast, gamma, hue, saturation: what stain, lamp and camera change."""
    a = albumentations()
    light, hue, saturation = 0.3 * strength, round(18 * strength), round(60 * strength)
    return [
        a.RandomBrightnessContrast(light, light, brightness_by_max=True, p=0.8),
        a.RandomGamma(_gamma_percent(1 + 0.5 * strength), p=0.5),
        a.HueSaturationValue(hue, saturation, val_shift_limit=0, p=0.5),
    ]


def _gamma_percent(widest: float) -> tuple[float, float]:
    """Exponents from 1/widest to widest, in per cent."""
    return 100 / widest, 100 * widest


def _moving_operations(strength: float) -> list[Any]:
    """RandAugment's operations that move pixels."""
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
    """RandAugment's operations that change values; those without a magnitude are applied to a share of the images."""
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
    """Far too dark or too bright."""
    a = albumentations()
    return a.RandomBrightnessContrast(0.4 * strength, 0.4 * strength, p=0.5 * strength)


def _blur(strength: float, size: int) -> Any:
    """Out of focus, moved, or taken at a lower resolution."""
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
    """Of the sensor, of speckle, of dead pixels."""
    a = albumentations()
    speckle = 0.35 * strength
    noises = [
        a.GaussNoise(std_range=(0.05 * strength, 0.18 * strength)),
        a.MultiplicativeNoise((1 - speckle, 1 + speckle), per_channel=True, elementwise=True),
        a.SaltAndPepper(amount=(0.01 * strength, 0.06 * strength)),
    ]
    return a.OneOf(noises, p=0.5 * strength)


def _masks(strength: float, size: int) -> Any:
    """A few rectangles or a grid, each in a colour of its own; a quarter of the image at most."""
    a = albumentations()
    side = (0.05, 0.05 + 0.2 * strength)
    cut = a.CoarseDropout((1, 1 + round(3 * strength)), side, side, fill="random_uniform")
    grid = a.GridDropout(0.1 + 0.4 * strength, unit_size_range=(size // 8, size // 4), fill="random_uniform")
    return a.OneOf([cut, grid], p=0.5 * strength)


def _jpeg(strength: float) -> Any:
    a = albumentations()
    return a.ImageCompression("jpeg", (round(95 - 75 * strength), round(95 - 40 * strength)), p=0.5 * strength)


def _around(limit: float) -> tuple[float, float]:
    return -limit, limit
