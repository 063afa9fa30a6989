"""Images a second at inference, with warm-up, as the median over repeats."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from hpo.delivery.model import Model

BATCHES = (1, 64)
"""Images at a time: one that somebody waits for, and many."""


@dataclass(frozen=True)
class Timing:
    """How long something is measured."""

    warmup: int = 3
    """Calls before the first that counts."""
    seconds: float = 1.0
    """Calls that count, together."""
    least: int = 5
    """Calls that count, however long they take."""
    most: int = 1000


def images_per_second(model: Model, images: npt.NDArray[np.uint8], batch: int, timing: Timing | None = None) -> float:
    """From (n, S, S, 3) uint8 in memory to logits in memory, float32; `images` are taken again where they are fewer.

    Decoding is not counted: it is the same for all models. Copying to a device and back is.
    """
    rows = np.resize(np.arange(len(images)), batch)
    shown = np.ascontiguousarray(images[rows])
    return batch / seconds_per_call(lambda: model.logits_of([shown]), timing or Timing())


def seconds_per_call(call: Callable[[], object], timing: Timing) -> float:
    """Median over the calls that count."""
    for _ in range(timing.warmup):
        call()
    taken: list[float] = []
    while len(taken) < timing.most and (len(taken) < timing.least or sum(taken) < timing.seconds):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return median(taken)
