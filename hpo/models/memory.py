"""Memory of a device: how much there is and was used, errors for lack of it, and smaller pieces that fit."""

from __future__ import annotations

import ctypes
import gc
import math
import resource
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import psutil
import torch
from torch import Tensor

from hpo.errors import InfeasibleError

T = TypeVar("T")

EXHAUSTED = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
"""Texts in the messages of RuntimeErrors for lack of memory that have no type of their own."""

NO_ROOM_FOR_A_KERNEL = "could not create a primitive"
"""The whole message of oneDNN without memory for the code of a CPU kernel; longer messages have other causes."""


@dataclass(frozen=True)
class Exhausted:
    """Result of an attempt that ran out of memory."""

    reason: str
    """First line of the error message."""


def out_of_memory(error: BaseException) -> bool:
    """Return whether `error` reports a lack of memory, on a GPU or a CPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    message = str(error)
    return isinstance(error, RuntimeError) and (
        message.strip() == NO_ROOM_FOR_A_KERNEL or any(text in message for text in EXHAUSTED)
    )


def attempt(action: Callable[[], T]) -> T | Exhausted:
    """Return the result of `action`, or Exhausted if it ran out of memory; other errors pass."""
    try:
        return action()
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        # The error itself is not returned: its traceback would keep the tensors of the attempt alive.
        return Exhausted(_first_line(error))


@contextmanager
def infeasible_where_exhausted(what: str) -> Iterator[None]:
    """Raise InfeasibleError, saying that `what` does not fit, if the block runs out of memory; other errors pass."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise InfeasibleError(f"{what} does not fit into the memory: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def release(device: torch.device) -> None:
    """Free what a failed attempt held: reference cycles of its error, and memory cached for later allocations."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)  # glibc keeps freed blocks in pieces too small for other uses


def total_memory(device: torch.device) -> int:
    """Return the bytes that the device has."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return int(psutil.virtual_memory().total)


def free_memory(device: torch.device) -> int:
    """Return the bytes that this process could still allocate, including those that torch has cached for it."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    available = int(psutil.virtual_memory().available)
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return available
    return min(available, limit - int(psutil.Process().memory_info().vms))


def reset_peak(device: torch.device) -> None:
    """Reset the peak of a GPU's memory; the peak of a process on a CPU cannot be reset."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> int:
    """Return peak bytes: allocated on a GPU since `reset_peak`, or resident on a CPU since the process started."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def piece_count(images: int, most: int | None, fewest: int) -> int:
    """Return the number of pieces of a batch, each of `most` images at most (None: no limit) and `fewest` at least.

    If both cannot hold, `fewest` does: with `most` 2 and `fewest` 2 an odd batch has one piece of 3.
    """
    if most is None:
        return 1
    return max(1, min(math.ceil(images / most), images // fewest))


def largest_piece(images: int, most: int | None, fewest: int) -> int:
    """Return the images in the largest of the pieces; the sizes of pieces differ by one at most."""
    return math.ceil(images / piece_count(images, most, fewest))


def in_pieces(forward: Callable[[Tensor], Tensor], batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """Yield `forward` of all images of `batches` in order, in smaller pieces after the first lack of memory.

    It is for evaluation, where an image's result does not depend on the others of its batch. Raises MemoryError if not
    even one image fits.
    """
    most: int | None = None
    for batch in batches:
        done = 0
        while done < len(batch):
            piece = batch[done : done + (most or len(batch))]
            output = attempt(lambda piece=piece: forward(piece))  # type: ignore[misc]
            if not isinstance(output, Exhausted):
                yield output
                done += len(piece)
            elif len(piece) == 1:
                raise MemoryError(output.reason)
            else:
                most = math.ceil(len(piece) / 2)
                release(batch.device)


def run_with_fewer(action: Callable[[int], T], images: int, fewest: int, device: torch.device) -> T:
    """Return the result of `action(images)`, called again with half as many images after each lack of memory.

    Raises MemoryError if not even `fewest` images fit.
    """
    while True:
        outcome = attempt(lambda count=images: action(count))  # type: ignore[misc]
        if not isinstance(outcome, Exhausted):
            return outcome
        if images <= fewest:
            raise MemoryError(outcome.reason)
        images = max(fewest, math.ceil(images / 2))
        release(device)
