"""What `fit()` yields: one EpochResult after another, each able to give the state to go on from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Snapshot:
    """Everything needed to go on after an epoch, and the weights to keep. Plain bytes and JSON: no pickle."""

    model: bytes
    """safetensors of the weights that were evaluated (the moving average, when there is one)."""
    resume: bytes
    """safetensors of what training goes on from: raw weights, optimiser tensors, moving average, generators."""
    state: Mapping[str, Any]
    """JSON-ready rest: epoch, optimiser scalars, scheduler, best so far."""


@dataclass(frozen=True)
class EpochResult:
    """What one epoch gave."""

    epoch: int
    """Epochs finished so far, from 1."""
    train_loss: float
    metrics: Mapping[str, float]
    """On the validation part: accuracy, balanced_accuracy, macro_f1, loss. Empty when there is none."""
    logits: npt.NDArray[np.float32] | None
    """(n_val, classes) float32 in the order of the validation part; None when there is none."""
    learning_rate: float
    """Of the head, at the end of the epoch."""
    seconds: float
    """Wall clock of the epoch, validation included."""
    images_per_second: float
    """Training images over the seconds spent training (validation excluded)."""
    peak_memory: int
    """Bytes: of the device on a GPU, of the process on a CPU."""
    facts: Mapping[str, Any]
    """What stays: device, precision, parameters, trainable_parameters, weights loaded, normalisation."""
    snapshot: Callable[[], Snapshot]
    """The state right after this epoch; valid until the generator is advanced."""
