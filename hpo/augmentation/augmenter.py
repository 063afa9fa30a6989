"""Augmentation of batches: `build_augmenter(config)` returns a callable `(images, seed) -> images`.

Strength goes from 0, the identity, to 1, the strongest of its family, and a larger strength never weakens an effect.

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
        """Return the augmented images (b, S, S, 3) uint8 RGB; `seed` is any integer from 0. The input stays unchanged.

        Under a consistency loss the result is (b, 3, S, S, 3): each image and two AugMix views of it.
        """

    def clone(self) -> Augmenter:
        """Return an equal augmenter for another thread: two threads must not call one augmenter at once."""


@dataclass(frozen=True)
class NoAugmentation:
    """Returns its input, uncopied."""

    def __call__(self, images: Images, seed: int) -> Images:
        """Return the images themselves."""
        return images

    def clone(self) -> NoAugmentation:
        """Return this object, which has no state."""
        return self


@dataclass(frozen=True)
class Pipeline:
    """Applies the steps of a configuration one after the other, on one stream of random numbers."""

    config: TrialConfig
    steps: tuple[Step, ...]

    def __call__(self, images: Images, seed: int) -> Images:
        """Return a new batch; steps after AugMix draw anew for each of its views."""
        rng = np.random.default_rng(seed)
        batch = images
        for step in self.steps:
            batch = step(batch, rng)
        if self.config.augmix_consistency:
            return batch.reshape(len(images), 1 + VIEWS, *images.shape[1:])
        return batch

    def clone(self) -> Augmenter:
        """Return a new pipeline of the same configuration."""
        # Some steps keep the state of their last call, so they are built anew.
        return build_augmenter(self.config)


class PerThread:
    """Makes an augmenter callable by any number of threads: each thread uses its own clone."""

    def __init__(self, augmenter: Augmenter) -> None:
        self._augmenter = augmenter
        self._own = threading.local()

    def __call__(self, images: Images, seed: int) -> Images:
        """Return the result of this thread's clone."""
        if not hasattr(self._own, "augmenter"):
            self._own.augmenter = self._augmenter.clone()
        augmented: Images = self._own.augmenter(images, seed)
        return augmented


def build_augmenter(config: TrialConfig) -> Augmenter:
    """Return the configuration's augmenter, without MixUp and CutMix, which mix whole batches on the device."""
    steps = steps_of(config)
    return Pipeline(config, steps) if steps else NoAugmentation()
