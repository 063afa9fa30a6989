"""The steps of each family of augmentation, with magnitudes that follow from the configuration's strengths.

A family is a function from the configuration to its steps, and FAMILIES has all of them by name. EXTRAS are steps that
may follow any family, each with a strength of its own. Magnitudes of albumentations' transforms stand in
`hpo.augmentation.per_image`.

The largest magnitudes keep the subject in the picture and its label true. Images are mirrored and turned by quarters
only if the configuration's `symmetry` says that labels stay true. Magnitudes and shares are proportional to strength.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from hpo.augmentation import per_image
from hpo.augmentation.augmix import AugMix
from hpo.augmentation.steps import (
    ChannelShuffle,
    CircleMask,
    CutOut,
    Dihedral,
    GridMask,
    Mixture,
    Step,
    Warp,
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
    return (per_image.colour(config.augmentation_strength),)


def _geometric_colour(config: TrialConfig) -> tuple[Step, ...]:
    return (*_geometric(config), *_colour(config))


def _randaugment(config: TrialConfig) -> tuple[Step, ...]:
    return (per_image.randaugment(config.augmentation_strength, config.randaugment_operations),)


def _corruption(config: TrialConfig) -> tuple[Step, ...]:
    return (_warp(config), per_image.corruption(config.augmentation_strength, config.image_size))


def _mixture(config: TrialConfig) -> tuple[Step, ...]:
    """Return a step that gives each image one of four families: the last is warped images under AugMix."""
    strongest = (*_geometric(config), AugMix(config.augmentation_strength))
    return (Mixture((_geometric_colour(config), _randaugment(config), _corruption(config), strongest)),)


FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "none": _none,
        "flips": _flips,
        "geometric": _geometric,
        "colour": _colour,
        "geometric-colour": _geometric_colour,
        "randaugment": _randaugment,
        "corruption": _corruption,
        "mixture": _mixture,
    }
)
"""All families by their names in `TrialConfig.augmentation`."""


def _augmix(config: TrialConfig) -> Step:
    return AugMix(config.augmix, beside=config.augmix_consistency > 0)


def _channel_shuffle(config: TrialConfig) -> Step:
    return ChannelShuffle(config.channel_shuffle)


def _gridmask(config: TrialConfig) -> Step:
    """Return a GridMask of four images in five, as in the paper; strength 0.8 is its r of 0.6."""
    return GridMask(share=0.8 * config.gridmask, hidden=0.5 * config.gridmask)


def _cutout(config: TrialConfig) -> Step:
    """Return a CutOut of half the side at most, as in the paper."""
    return CutOut(0.5 * config.cutout)


def _masking(config: TrialConfig) -> Step:
    """Return a CircleMask whose smallest circle keeps half of the image."""
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
"""The steps that may follow the family, in this order, by the names of their strengths in `TrialConfig`."""


def steps_of(config: TrialConfig) -> tuple[Step, ...]:
    """Return the steps of the configuration's family and of its extras, without those of strength 0."""
    family = FAMILIES[config.augmentation](config) if config.augmentation_strength else ()
    return (*family, *(extra(config) for name, extra in EXTRAS.items() if getattr(config, name)))


def _warp(config: TrialConfig) -> Warp:
    """Return the Warp of the strength; at 1, ±45° and the eight symmetries together reach every orientation."""
    strength = config.augmentation_strength
    return Warp(
        share=strength,
        symmetry=config.symmetry,
        degrees=45 * strength,
        zoom=1 + 0.25 * strength,
        shift=0.1 * strength,
        shear=12 * strength,
    )
