"""Batches of uint8 images on the device, prepared while the step before them runs.

Batch b of epoch e is augmented from the seed (seed, e, b), so the number of threads changes nothing but the speed.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import cv2
import torch
from torch import Tensor

from hpo.data.dataset import Images, Part
from hpo.training.augment import Augmenter, build_augmenter
from hpo.training.interruption import ShouldStop, never, until_stopped
from hpo.training.randomness import derive
from hpo.training.runtime import Runtime
from hpo.training.sampling import Rows
from search_spaces import TrialConfig

SHARE = 0.4
"""Of the free device memory, what a resident set may take."""


ImageBatches = Generator[Tensor, None, None]
"""Close it when leaving it early: threads that prepare batches end with it."""


class Feed(Protocol):
    """Images of one part."""

    def epoch(self, batches: Sequence[Rows], epoch: int, done: int = 0) -> ImageBatches:
        """Each batch of rows but the first `done`, as (b, S, S, 3) uint8 on the device."""


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
    """Batches read from the memory map and augmented by threads, a few ahead of the step."""

    def __init__(
        self, part: Part, augmenter: Augmenter | None, device: torch.device, *, seed: int, threads: int
    ) -> None:
        self._part = part
        self._augmenter = augmenter
        self._device = device
        self._seed = seed
        self._threads = threads
        self._own = threading.local()

    def epoch(self, batches: Sequence[Rows], epoch: int, done: int = 0) -> ImageBatches:
        """Each batch of rows but the first `done`, as (b, S, S, 3) uint8 on the device."""
        pool = ThreadPoolExecutor(self._threads, thread_name_prefix="batches")
        ahead: deque[Future[Tensor]] = deque()
        try:
            for number, rows in enumerate(batches[done:], start=done):
                ahead.append(pool.submit(self._prepared, rows, derive(self._seed, "augment", epoch, number)))
                if len(ahead) > 2 * self._threads:
                    yield self._moved(ahead.popleft().result())
            while ahead:
                yield self._moved(ahead.popleft().result())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _prepared(self, rows: Rows, seed: int) -> Tensor:
        images = torch.from_numpy(self._augmented(self._part.batch(rows), seed))
        return images.pin_memory() if self._device.type == "cuda" else images

    def _augmented(self, images: Images, seed: int) -> Images:
        """Augmented by the thread's own clone, since an augmenter is not to be shared."""
        if self._augmenter is None:
            return images
        if not hasattr(self._own, "augmenter"):
            self._own.augmenter = self._augmenter.clone()
        augmented: Images = self._own.augmenter(images, seed)
        return augmented

    def _moved(self, images: Tensor) -> Tensor:
        return images.to(self._device, non_blocking=True)


def augments(config: TrialConfig) -> bool:
    """Whether the configuration changes training images at all."""
    return config.augmentation != "none" and config.augmentation_strength > 0


def training_feed(config: TrialConfig, part: Part, device: torch.device, runtime: Runtime) -> Feed:
    """The training part: resident where it fits and nothing is augmented on the CPU, else streamed."""
    if not augments(config):
        return plain_feed(part, device, runtime.should_stop)
    cv2.setNumThreads(0)  # OpenCV's own threads would fight with ours and torch's
    augmenter = build_augmenter(config.augmentation, config.augmentation_strength, config.image_size)
    return StreamedFeed(part, augmenter, device, seed=runtime.seed, threads=runtime.preparing)


def plain_feed(part: Part, device: torch.device, should_stop: ShouldStop = never) -> Feed:
    """A part as it is: resident on a GPU where it fits, else streamed. TrainingInterrupted when stopped meanwhile."""
    if device.type == "cuda" and _fits(part, device):
        return ResidentFeed(part, device, should_stop)
    return StreamedFeed(part, None, device, seed=0, threads=1)


def _fits(part: Part, device: torch.device) -> bool:
    free, _ = torch.cuda.mem_get_info(device)
    size: int = len(part) * part.images[0].nbytes
    return size < SHARE * free
