"""Augmentation of batches: `build_augmenter(family, strength, size)` gives a callable `(images, seed) -> images`.

Strength goes from 0, the identity, to 1, the strongest of its family, and never weakens an effect on the way.
What a strength means for each family stands in `hpo.training.families`, and only there.

Microseconds for an image of 96 pixels at strength 0.5 on one core: flips 25, geometric 70, colour 130, geometric-colour
180, randaugment 220, corruption 380.

OpenCV parallelises over its own threads; a caller that augments in threads of its own sets `cv2.setNumThreads(0)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from hpo.errors import UsageError
from hpo.training.augment_steps import Step
from hpo.training.families import FAMILIES

Images = npt.NDArray[np.uint8]


class Augmenter(Protocol):
    """Transforms a batch; the result depends on the images and the seed alone."""

    def __call__(self, images: Images, seed: int) -> Images:
        """(b, S, S, 3) uint8 RGB in, the same out; `seed` is any integer from 0. The input is left as it is."""

    def clone(self) -> Augmenter:
        """An equal augmenter for another thread: one augmenter must not be called by two threads at once."""


@dataclass(frozen=True)
class NoAugmentation:
    """Returns its input, uncopied."""

    def __call__(self, images: Images, seed: int) -> Images:
        """The images themselves."""
        return images

    def clone(self) -> NoAugmentation:
        """Itself: it has no state."""
        return self


@dataclass(frozen=True)
class Pipeline:
    """The steps of a family at one strength, one after the other, on one stream of random numbers."""

    family: str
    strength: float
    image_size: int
    steps: tuple[Step, ...]

    def __call__(self, images: Images, seed: int) -> Images:
        """A new batch (b, S, S, 3) uint8."""
        rng = np.random.default_rng(seed)
        for step in self.steps:
            images = step(images, rng)
        return images

    def clone(self) -> Augmenter:
        """Built anew: some steps keep the state of their last call."""
        return build_augmenter(self.family, self.strength, self.image_size)


def build_augmenter(family: str, strength: float, image_size: int) -> Augmenter:
    """The augmenter of a family (`search_spaces.AugmentationFamily`) for images of side `image_size` pixels.

    Family "none" and strength 0 give NoAugmentation. Raises UsageError on an unknown family or a strength outside 0..1.
    """
    if family not in FAMILIES:
        raise UsageError(f"augmentation is {family!r}, but must be one of {', '.join(FAMILIES)}")
    if not 0 <= strength <= 1:
        raise UsageError(f"augmentation strength is {strength}, but must be between 0 and 1")
    steps = FAMILIES[family](strength, image_size) if strength else ()
    return Pipeline(family, strength, image_size, steps) if steps else NoAugmentation()
