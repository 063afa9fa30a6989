"""Cutting a batch into pieces that fit into the memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

from hpo.training.memory import Exhausted, attempted, release

T = TypeVar("T")


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
            output = attempted(lambda piece=piece: forward(piece))  # type: ignore[misc]
            if not isinstance(output, Exhausted):
                yield output
                done += len(piece)
            elif len(piece) == 1:
                raise MemoryError(output.reason)
            else:
                most = math.ceil(len(piece) / 2)
                release(batch.device)


def with_fewer(action: Callable[[int], T], images: int, fewest: int, device: torch.device) -> T:
    """What `action(images)` gives, with half as many images after each time that the memory was not enough.

    Raises MemoryError where not even `fewest` fit.
    """
    while True:
        outcome = attempted(lambda count=images: action(count))  # type: ignore[misc]
        if not isinstance(outcome, Exhausted):
            return outcome
        if images <= fewest:
            raise MemoryError(outcome.reason)
        images = max(fewest, math.ceil(images / 2))
        release(device)
