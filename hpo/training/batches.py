"""Feeds of training and validation images: how an epoch is cut into batches, and the augmentation of each batch.

Batch b of epoch e is augmented from the seed (seed, e, b), so the number of threads changes nothing but the speed.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import torch

from hpo.augmentation.augmenter import Augmenter, PerThread, build_augmenter
from hpo.augmentation.families import EXTRAS
from hpo.data.dataset import Images, Part, Rows
from hpo.models.feeds import Feed, MakeBatch, StreamedFeed, plain_feed
from hpo.seeds import derive_seed
from hpo.training.runtime import Runtime
from search_spaces import TrialConfig

_VALIDATION = TrialConfig(augmentation="randaugment", augmentation_strength=0.5, randaugment_operations=2)
"""Augmentation of the validation images that are to be augmented."""


def training_feed(config: TrialConfig, part: Part, device: torch.device, runtime: Runtime) -> Feed:
    """Return the feed of the training part: resident if it fits and nothing is augmented on the CPU, else streamed.

    With a consistency loss, batches are (b, 3, S, S, 3): the image and two AugMix views.
    """
    if not augments(config):
        return plain_feed(part, device, runtime.should_stop)
    return _streamed_feed(Augmented(part, build_augmenter(config), runtime.seed), device, runtime)


def validation_feed(config: TrialConfig, part: Part, device: torch.device, runtime: Runtime) -> Feed:
    """Return the feed of the validation part: its images unchanged, or a fixed share of them under RandAugment."""
    # The strength does not depend on the configuration: trials are comparable only on the same validation images.
    if not config.validation_augmented:
        return plain_feed(part, device, runtime.should_stop)
    augmenter = build_augmenter(_VALIDATION.replace(image_size=config.image_size))
    return _streamed_feed(AugmentedOnce(part, augmenter, config.validation_augmented), device, runtime)


def _streamed_feed(make: MakeBatch, device: torch.device, runtime: Runtime) -> StreamedFeed:
    cv2.setNumThreads(0)  # OpenCV's own threads would compete with ours and torch's
    return StreamedFeed(make, device, threads=runtime.preparing)


def augments(config: TrialConfig) -> bool:
    """Return whether the configuration changes training images one by one, by its family or an extra."""
    family = config.augmentation != "none" and config.augmentation_strength > 0
    return family or any(getattr(config, name) for name in EXTRAS)


class Augmented:
    """Makes batches of a part, augmented anew in every epoch."""

    def __init__(self, part: Part, augmenter: Augmenter, seed: int) -> None:
        self._part = part
        self._augment = PerThread(augmenter)
        self._seed = seed

    def __call__(self, rows: Rows, epoch: int, number: int) -> Images:
        """Return the rows, augmented from the seed of this batch."""
        return self._augment(self._part.batch(rows), derive_seed(self._seed, "augment", epoch, number))


class AugmentedOnce:
    """Makes batches of a part with a share of its images augmented: the same images in the same way in every epoch.

    The choice of images and their seeds depend on the part and the share alone, neither on the trial's seed nor on the
    batches. A larger share includes the images of a smaller one.
    """

    def __init__(self, part: Part, augmenter: Augmenter, share: float) -> None:
        self._part = part
        self._augment = PerThread(augmenter)
        chosen = np.random.default_rng(derive_seed(0, "validation")).permutation(len(part))[: round(share * len(part))]
        self._chosen = np.isin(np.arange(len(part)), chosen)

    def __call__(self, rows: Rows, epoch: int, number: int) -> Images:
        """Return the rows, with the chosen ones augmented one by one."""
        images = self._part.batch(rows)
        for place in np.flatnonzero(self._chosen[rows]):
            images[place] = self._augment(images[place : place + 1], derive_seed(0, "validation", int(rows[place])))[0]
        return images


def batch_count(images: int, batch_size: int) -> int:
    """Return the number of batches of an epoch: as few as `batch_size` allows, each of at least two images."""
    return max(1, min(math.ceil(images / batch_size), images // 2))


def epoch_batches(order: Rows, batch_size: int) -> list[Rows]:
    """Cut `order` into batches whose sizes differ by one at most."""
    # So no epoch ends with a small, noisy batch, no image is dropped, and BatchNorm never sees a batch of one.
    return np.array_split(order, batch_count(len(order), batch_size))
