"""Batches of uint8 images on the device, prepared while the step before them runs.

Batch b of epoch e is augmented from the seed (seed, e, b), so the number of threads changes nothing but the speed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import cv2
import numpy as np
import torch
from torch import Tensor

from hpo.data.dataset import Images, Part
from hpo.training.augment import Augmenter, PerThread, build_augmenter
from hpo.training.families import EXTRAS
from hpo.training.interruption import ShouldStop, never, until_stopped
from hpo.training.randomness import derive
from hpo.training.runtime import Runtime
from hpo.training.sampling import Rows
from search_spaces import TrialConfig

SHARE = 0.4
"""Of the free device memory, what a resident set may take."""


ImageBatches = Generator[Tensor, None, None]
"""Close it when leaving it early: threads that prepare batches end with it."""


Make = Callable[[Rows, int, int], Images]
"""(rows, epoch, number of the batch) to uint8 images; called by several threads at once."""


class Feed(Protocol):
    """Images of one part."""

    def epoch(self, batches: Sequence[Rows], epoch: int, done: int = 0) -> ImageBatches:
        """Each batch of rows but the first `done`, as (b, S, S, 3) or (b, 3, S, S, 3) uint8 on the device."""


class ResidentFeed:
    """The whole part on the device, copied once; a batch is an index."""

    def __init__(self, part: Part, device: torch.device, should_stop: ShouldStop = never) -> None:
        self._images = torch.empty((len(part), *part.images.shape[1:]), dtype=torch.uint8, device=device)
        for rows in until_stopped(torch.split(torch.arange(len(part)), 1024), should_stop):
            self._images[rows[0] : rows[-1] + 1] = torch.from_numpy(part.batch(rows.numpy())).to(device)

    def epoch(self, batches: Sequence[Rows], epoch: int, done: int = 0) -> ImageBatches:
        """Each batch of rows but the first `done`, as (b, S, S, 3) uint8 on the device; the epoch changes nothing."""
        sizes = [len(rows) for rows in batches]
        order = torch.cat([torch.from_numpy(rows) for rows in batches]).to(self._images.device)
        for rows in torch.split(order, sizes)[done:]:
            yield self._images[rows]


class StreamedFeed:
    """Batches made by threads, a few ahead of the step: read from the memory map and, where told so, augmented."""

    def __init__(self, make: Make, device: torch.device, *, threads: int) -> None:
        self._make = make
        self._device = device
        self._threads = threads

    def epoch(self, batches: Sequence[Rows], epoch: int, done: int = 0) -> ImageBatches:
        """Each batch of rows but the first `done`, as uint8 on the device."""
        pool = ThreadPoolExecutor(self._threads, thread_name_prefix="batches")
        ahead: deque[Future[Tensor]] = deque()
        try:
            for number, rows in enumerate(batches[done:], start=done):
                ahead.append(pool.submit(self._made, rows, epoch, number))
                if len(ahead) > 2 * self._threads:
                    yield self._moved(ahead.popleft().result())
            while ahead:
                yield self._moved(ahead.popleft().result())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _made(self, rows: Rows, epoch: int, number: int) -> Tensor:
        images = torch.from_numpy(self._make(rows, epoch, number))
        return images.pin_memory() if self._device.type == "cuda" else images

    def _moved(self, images: Tensor) -> Tensor:
        return images.to(self._device, non_blocking=True)


class Augmented:
    """Batches of a part, augmented anew in every epoch."""

    def __init__(self, part: Part, augmenter: Augmenter, seed: int) -> None:
        self._part = part
        self._augment = PerThread(augmenter)
        self._seed = seed

    def __call__(self, rows: Rows, epoch: int, number: int) -> Images:
        """What the augmenter makes of the rows, from the seed of this batch."""
        return self._augment(self._part.batch(rows), derive(self._seed, "augment", epoch, number))


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
        chosen = np.random.default_rng(derive(0, "validation")).permutation(len(part))[: round(share * len(part))]
        self._chosen = np.isin(np.arange(len(part)), chosen)

    def __call__(self, rows: Rows, epoch: int, number: int) -> Images:
        """The rows, those chosen augmented one by one."""
        images = self._part.batch(rows)
        for place in np.flatnonzero(self._chosen[rows]):
            images[place] = self._augment(images[place : place + 1], derive(0, "validation", int(rows[place])))[0]
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


def _streamed(make: Make, device: torch.device, runtime: Runtime) -> StreamedFeed:
    cv2.setNumThreads(0)  # OpenCV's own threads would fight with ours and torch's
    return StreamedFeed(make, device, threads=runtime.preparing)


def plain_feed(part: Part, device: torch.device, should_stop: ShouldStop = never) -> Feed:
    """A part as it is: resident on a GPU where it fits, else streamed. TrainingInterrupted when stopped meanwhile."""
    if device.type == "cuda" and _fits(part, device):
        return ResidentFeed(part, device, should_stop)
    return StreamedFeed(lambda rows, epoch, number: part.batch(rows), device, threads=1)


def _fits(part: Part, device: torch.device) -> bool:
    free, _ = torch.cuda.mem_get_info(device)
    size: int = len(part) * part.images[0].nbytes
    return size < SHARE * free
