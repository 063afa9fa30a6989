"""The order of an epoch: which rows of the training part make up which batch. Pure functions of (seed, epoch).

Batches of uint8 images on the device, prepared while the step before them runs.

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


def batch_count(images: int, batch_size: int) -> int:
    """Batches of an epoch: as few as `batch_size` allows, and never so many that one would hold a single image."""
    return max(1, min(math.ceil(images / batch_size), images // 2))


def epoch_order(labels: Rows, *, balanced: bool, seed: int, epoch: int) -> Rows:
    """Rows (n,) of one epoch: a permutation or, when `balanced`, every class equally often."""
    generator = np.random.default_rng(derive_seed(seed, "order", epoch))
    if balanced:
        return _balanced(labels, generator)
    return generator.permutation(len(labels))


def epoch_batches(order: Rows, batch_size: int) -> list[Rows]:
    """`order` cut into batches whose sizes differ by one at most.

    An epoch therefore ends with no small, noisy batch, no image is dropped, and BatchNorm never sees a batch of one.
    """
    return np.array_split(order, batch_count(len(order), batch_size))


def _balanced(labels: Rows, generator: np.random.Generator) -> Rows:
    """len(labels) rows; the counts of two classes differ by one at most, those of two rows of a class likewise."""
    present = generator.permutation(np.unique(labels))
    quotas = [len(part) for part in np.array_split(labels, len(present))]
    drawn = [
        _cycled(np.flatnonzero(labels == label), quota, generator) for label, quota in zip(present, quotas, strict=True)
    ]
    return generator.permutation(np.concatenate(drawn))


def _cycled(rows: Rows, quota: int, generator: np.random.Generator) -> Rows:
    """`quota` of `rows`, each used once before any is used again."""
    rounds = math.ceil(quota / len(rows))
    return np.concatenate([generator.permutation(rows) for _ in range(rounds)])[:quota]


class Augmented:
    """Batches of a part, augmented anew in every epoch."""

    def __init__(self, part: Part, augmenter: Augmenter, seed: int) -> None:
        self._part = part
        self._augment = PerThread(augmenter)
        self._seed = seed

    def __call__(self, rows: Rows, epoch: int, number: int) -> Images:
        """What the augmenter makes of the rows, from the seed of this batch."""
        return self._augment(self._part.batch(rows), derive_seed(self._seed, "augment", epoch, number))


_VALIDATION = TrialConfig(augmentation="randaugment", augmentation_strength=0.5, randaugment_operations=2)
"""What alters validation images, where they are to be altered."""


class AugmentedOnce:
    """Batches of a part of which a share is augmented, the same images in the same way in every epoch.

    Which ones, and from which seeds, depends on the part and the share alone: neither on the trial's seed nor on how
    the rows are batched. A larger share takes in those of a smaller one.
    """

    def __init__(self, part: Part, augmenter: Augmenter, share: float) -> None:
        self._part = part
        self._augment = PerThread(augmenter)
        chosen = np.random.default_rng(derive_seed(0, "validation")).permutation(len(part))[: round(share * len(part))]
        self._chosen = np.isin(np.arange(len(part)), chosen)

    def __call__(self, rows: Rows, epoch: int, number: int) -> Images:
        """The rows, those chosen augmented one by one."""
        images = self._part.batch(rows)
        for place in np.flatnonzero(self._chosen[rows]):
            images[place] = self._augment(images[place : place + 1], derive_seed(0, "validation", int(rows[place])))[0]
        return images


def augments(config: TrialConfig) -> bool:
    """Whether the configuration changes training images one by one: by its family or an extra, not by mixing."""
    family = config.augmentation != "none" and config.augmentation_strength > 0
    return family or any(getattr(config, name) for name in EXTRAS)


def training_feed(config: TrialConfig, part: Part, device: torch.device, runtime: Runtime) -> Feed:
    """The training part: resident where it fits and nothing is augmented on the CPU, else streamed.

    Batches are (b, 3, S, S, 3), the image and two AugMix views, where the configuration has a consistency loss.
    """
    if not augments(config):
        return plain_feed(part, device, runtime.should_stop)
    return _streamed(Augmented(part, build_augmenter(config), runtime.seed), device, runtime)


def validation_feed(config: TrialConfig, part: Part, device: torch.device, runtime: Runtime) -> Feed:
    """The validation part: as it is, or a share of its images under RandAugment, once and for all.

    Its strength is the same whatever the trial trains on: trials that were judged on images of their own making could
    not be compared.
    """
    if not config.validation_augmented:
        return plain_feed(part, device, runtime.should_stop)
    augmenter = build_augmenter(_VALIDATION.replace(image_size=config.image_size))
    return _streamed(AugmentedOnce(part, augmenter, config.validation_augmented), device, runtime)


def _streamed(make: MakeBatch, device: torch.device, runtime: Runtime) -> StreamedFeed:
    cv2.setNumThreads(0)  # OpenCV's own threads would fight with ours and torch's
    return StreamedFeed(make, device, threads=runtime.preparing)
