"""What `fit()` yields: one EpochResult after another, each able to give its weights and the state to go on from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Snapshot:
    """Everything needed to go on, after an epoch or within one. Plain bytes and JSON: no pickle."""

    resume: bytes
    """safetensors: raw weights, optimiser tensors, moving average; within an epoch the loss so far and generators."""
    state: Mapping[str, Any]
    """JSON-ready rest: epochs and steps done, number format, stage, optimiser scalars, schedule, guard, patience."""


@dataclass(frozen=True)
class EpochResult:
    """What one epoch gave."""

    epoch: int
    """Epochs finished so far, from 1."""
    last: bool
    """Whether no epoch follows: all are done, or the patience is over."""
    train_loss: float
    metrics: Mapping[str, float]
    """On the validation part: accuracy, balanced_accuracy, macro_f1, loss. Empty when there is none."""
    logits: npt.NDArray[np.float32] | None
    """(n_val, classes) float32 in the order of the validation part; None when there is none."""
    learning_rate: float
    """Of the head, at the end of the epoch."""
    seconds: float
    """Wall clock of the epoch, validation included; for one that was interrupted, of all its pieces together."""
    images_per_second: float
    """Training images over the seconds spent training (validation excluded), in all pieces of the epoch."""
    peak_memory: int
    """Bytes: of the device on a GPU, of the process on a CPU."""
    facts: Mapping[str, Any]
    """What stays: device, precision, parameters, weights loaded, normalisation, number of phases, and
    trainable_parameters, those of the phase with the most."""
    weights: Callable[[], bytes]
    """Gives safetensors of the weights that were evaluated (the moving average, when there is one); raises RuntimeError
    once the generator has been advanced."""
    snapshot: Callable[[], Snapshot]
    """Gives the state right after this epoch; raises RuntimeError once the generator has been advanced."""
