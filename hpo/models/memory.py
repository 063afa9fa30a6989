"""Memory of the device: how much a run took, how much there is, and what to do when it is not enough.

Cutting a batch into pieces that fit into the memory.
"""

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
"""In messages of RuntimeErrors that no type tells from others."""

NO_ROOM_FOR_A_KERNEL = "could not create a primitive"
"""The whole message of oneDNN that finds no memory for the code of a CPU kernel; longer ones mean other things."""


@dataclass(frozen=True)
class Exhausted:
    """What an attempt gives for which the memory was not enough."""

    reason: str
    """First line of the error."""


def out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory could not be had, on a GPU or a CPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    message = str(error)
    return isinstance(error, RuntimeError) and (
        message.strip() == NO_ROOM_FOR_A_KERNEL or any(text in message for text in EXHAUSTED)
    )


def attempt(action: Callable[[], T]) -> T | Exhausted:
    """What `action` gives, or Exhausted where the memory was not enough; other errors pass.

    The error itself is not handed on: its traceback would keep the tensors of the attempt alive.
    """
    try:
        return action()
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        return Exhausted(_first_line(error))


@contextmanager
def infeasible_where_exhausted(what: str) -> Iterator[None]:
    """Running out of memory inside raises InfeasibleError, which says that `what` does not fit; other errors pass."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise InfeasibleError(f"{what} does not fit into the memory: {_first_line(error)}") from error


def release(device: torch.device) -> None:
    """Give back what a failed attempt held: cycles that its error left, and memory kept for later allocations."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)  # glibc keeps freed blocks in pieces too small for anything else


def total_memory(device: torch.device) -> int:
    """Bytes that the device has."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return int(psutil.virtual_memory().total)


def free_memory(device: torch.device) -> int:
    """Bytes that this process could still allocate: those that torch keeps for it included."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    available = int(psutil.virtual_memory().available)
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return available
    return min(available, limit - int(psutil.Process().memory_info().vms))


def reset_peak(device: torch.device) -> None:
    """Forget the peak of the runs before this one, where the device can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> int:
    """Peak bytes: allocated on a GPU since `reset_peak`; resident of the whole process, since its start, on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def piece_count(images: int, most: int | None, fewest: int) -> int:
    """Pieces for a batch of `images`: none of more than `most` images (None: no limit), none of less than `fewest`.

    The latter wins: at `most` 2 and `fewest` 2 an odd batch has one piece of 3.
    """
    if most is None:
        return 1
    return max(1, min(math.ceil(images / most), images // fewest))


def largest_piece(images: int, most: int | None, fewest: int) -> int:
    """Images in the largest of those pieces; their sizes differ by one at most."""
    return math.ceil(images / piece_count(images, most, fewest))


def in_pieces(forward: Callable[[Tensor], Tensor], batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """`forward` of all images of `batches`, in their order, in smaller pieces once the memory was not enough.

    For evaluation, where an image's result does not depend on the others of its batch. Raises MemoryError where not
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
    """What `action(images)` gives, with half as many images after each time that the memory was not enough.

    Raises MemoryError where not even `fewest` fit.
    """
    while True:
        outcome = attempt(lambda count=images: action(count))  # type: ignore[misc]
        if not isinstance(outcome, Exhausted):
            return outcome
        if images <= fewest:
            raise MemoryError(outcome.reason)
        images = max(fewest, math.ceil(images / 2))
        release(device)
