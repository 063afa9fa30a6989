"""Feeds: batches of one part's uint8 images on the device, in the order of given rows, from memory or by threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import torch
from torch import Tensor

from hpo.data.dataset import Images, Part, Rows
from hpo.interruption import ShouldStop, never, until_stopped

RESIDENT_SHARE = 0.4
"""Largest share of the free device memory that a resident part may take."""

ImageBatches = Generator[Tensor, None, None]
"""Close the generator if it is left early: that ends the threads which prepare batches."""

MakeBatch = Callable[[Rows, int, int], Images]
"""(rows, epoch, number of the batch) -> uint8 images; several threads call it at once."""


class Feed(Protocol):
    """Gives the images of one part."""

    def epoch(self, batches: Sequence[Rows], epoch: int, done: int = 0) -> ImageBatches:
        """Yield each batch of rows except the first `done`, as (b, S, S, 3) or (b, 3, S, S, 3) uint8 on the device."""


class ResidentFeed:
    """The whole part on the device, copied once; a batch is taken by its indices."""

    def __init__(self, part: Part, device: torch.device, should_stop: ShouldStop = never) -> None:
        self._images = torch.empty((len(part), *part.images.shape[1:]), dtype=torch.uint8, device=device)
        for rows in until_stopped(torch.split(torch.arange(len(part)), 1024), should_stop):
            self._images[rows[0] : rows[-1] + 1] = torch.from_numpy(part.batch(rows.numpy())).to(device)

    def epoch(self, batches: Sequence[Rows], epoch: int, done: int = 0) -> ImageBatches:
        """Yield each batch of rows except the first `done`, as (b, S, S, 3) uint8 on the device; `epoch` is ignored."""
        sizes = [len(rows) for rows in batches]
        order = torch.cat([torch.from_numpy(rows) for rows in batches]).to(self._images.device)
        for rows in torch.split(order, sizes)[done:]:
            yield self._images[rows]


class StreamedFeed:
    """Batches that threads make a few steps ahead: read from the memory map and, if `make` does so, augmented."""

    def __init__(self, make: MakeBatch, device: torch.device, *, threads: int) -> None:
        self._make = make
        self._device = device
        self._threads = threads

    def epoch(self, batches: Sequence[Rows], epoch: int, done: int = 0) -> ImageBatches:
        """Yield each batch of rows except the first `done`, as uint8 on the device."""
        pool = ThreadPoolExecutor(self._threads, thread_name_prefix="batches")
        ahead: deque[Future[Tensor]] = deque()
        try:
            for number, rows in enumerate(batches[done:], start=done):
                ahead.append(pool.submit(self._make_batch, rows, epoch, number))
                if len(ahead) > 2 * self._threads:
                    yield self._to_device(ahead.popleft().result())
            while ahead:
                yield self._to_device(ahead.popleft().result())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _make_batch(self, rows: Rows, epoch: int, number: int) -> Tensor:
        images = torch.from_numpy(self._make(rows, epoch, number))
        return images.pin_memory() if self._device.type == "cuda" else images

    def _to_device(self, images: Tensor) -> Tensor:
        return images.to(self._device, non_blocking=True)


def plain_feed(part: Part, device: torch.device, should_stop: ShouldStop = never) -> Feed:
    """Return a feed of the unchanged images: resident on a GPU if they fit, else streamed.

    Raises TrainingInterrupted when stopped during the copy to the GPU.
    """
    if device.type == "cuda" and _fits(part, device):
        return ResidentFeed(part, device, should_stop)
    return StreamedFeed(lambda rows, epoch, number: part.batch(rows), device, threads=1)


def _fits(part: Part, device: torch.device) -> bool:
    free, _ = torch.cuda.mem_get_info(device)
    size: int = len(part) * part.images[0].nbytes
    return size < RESIDENT_SHARE * free
