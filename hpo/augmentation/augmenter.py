"""Augmentation of batches: `build_augmenter(config)` gives a callable `(images, seed) -> images`.

Strength goes from 0, the identity, to 1, the strongest of its family, and never weakens an effect on the way.
What a strength means for each family stands in `hpo.augmentation.families`, and only there.

Microseconds for an image of 96 pixels at strength 0.5 on one core, the least of 25 runs: flips 15, geometric 55, colour
50, geometric-colour 110, randaugment 140 (3 operations: 210), corruption 260, augmix 250 (with its views: 520),
channel_shuffle 6, gridmask, cutout and masking 15 each.

OpenCV parallelises over its own threads; a caller that augments in threads of its own sets `cv2.setNumThreads(0)`.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from hpo.augmentation.augmix import VIEWS
from hpo.augmentation.families import steps_of
from hpo.augmentation.steps import Step
from hpo.data.dataset import Images
from search_spaces import TrialConfig


class Augmenter(Protocol):
    """Transforms a batch; the result depends on the images and the seed alone."""

    def __call__(self, images: Images, seed: int) -> Images:
        """(b, S, S, 3) uint8 RGB in, the same out; `seed` is any integer from 0. The input is left as it is.

        Under a consistency loss (b, 3, S, S, 3) out: the image and two AugMix views of it.
        """

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
    """The steps of a configuration, one after the other, on one stream of random numbers."""

    config: TrialConfig
    steps: tuple[Step, ...]

    def __call__(self, images: Images, seed: int) -> Images:
        """A new batch; what follows AugMix is drawn anew for each of its views."""
        rng = np.random.default_rng(seed)
        batch = images
        for step in self.steps:
            batch = step(batch, rng)
        if self.config.augmix_consistency:
            return batch.reshape(len(images), 1 + VIEWS, *images.shape[1:])
        return batch

    def clone(self) -> Augmenter:
        """Built anew: some steps keep the state of their last call."""
        return build_augmenter(self.config)


class PerThread:
    """An augmenter that any number of threads may call: each calls a clone of its own."""

    def __init__(self, augmenter: Augmenter) -> None:
        self._augmenter = augmenter
        self._own = threading.local()

    def __call__(self, images: Images, seed: int) -> Images:
        """As the augmenter's own."""
        if not hasattr(self._own, "augmenter"):
            self._own.augmenter = self._augmenter.clone()
        augmented: Images = self._own.augmenter(images, seed)
        return augmented


def build_augmenter(config: TrialConfig) -> Augmenter:
    """The configuration's augmenter, but for MixUp and CutMix, which mix whole batches on the device."""
    steps = steps_of(config)
    return Pipeline(config, steps) if steps else NoAugmentation()
