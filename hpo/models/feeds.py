"""TODO."""

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


def plain_feed(part: Part, device: torch.device, should_stop: ShouldStop = never) -> Feed:
    """A part as it is: resident on a GPU where it fits, else streamed. TrainingInterrupted when stopped meanwhile."""
    if device.type == "cuda" and _fits(part, device):
        return ResidentFeed(part, device, should_stop)
    return StreamedFeed(lambda rows, epoch, number: part.batch(rows), device, threads=1)


def _fits(part: Part, device: torch.device) -> bool:
    free, _ = torch.cuda.mem_get_info(device)
    size: int = len(part) * part.images[0].nbytes
    return size < RESIDENT_SHARE * free
