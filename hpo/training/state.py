"""State of a run: the result of an epoch, the snapshot to resume from, and the position down to the step.

Tensors are stored by name in safetensors bytes, all other values in JSON; nothing is pickled.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load, save
from torch import Tensor


@dataclass(frozen=True)
class EpochResult:
    """The result of one epoch."""

    epoch: int
    """Epochs finished so far, from 1."""
    last: bool
    """Whether no epoch follows: all are done, or early stopping ends the run."""
    train_loss: float
    metrics: Mapping[str, float]
    """Metrics on the validation part: accuracy, balanced_accuracy, macro_f1, loss; on the altered part, where there is
    one, `altered_accuracy` and so on. Empty without a validation part."""
    logits: npt.NDArray[np.float32] | None
    """(n_val, classes) float32 in the order of the validation part; None without such a part."""
    learning_rate: float
    """Learning rate of the head at the end of the epoch."""
    seconds: float
    """Wall-clock time of the epoch, validation included; summed over all runs of an interrupted epoch."""
    images_per_second: float
    """Training images over the seconds spent training (validation excluded)."""
    peak_memory: int
    """Peak bytes of the device on a GPU, or of the process on a CPU."""
    facts: Mapping[str, Any]
    """Values that stay the same in all epochs: device, precision, parameters, weights loaded, normalisation, number of
    phases, and trainable_parameters, the largest number in any phase."""
    weights: Callable[[], bytes]
    """Returns safetensors of the weights that were evaluated (the moving average if there is one); raises RuntimeError
    after the generator has advanced."""
    snapshot: Callable[[], Snapshot]
    """Returns the state right after this epoch; raises RuntimeError after the generator has advanced."""
    altered_logits: npt.NDArray[np.float32] | None = None
    """(m, classes) float32 in the order of the altered part; None without such a part."""


@dataclass(frozen=True)
class Snapshot:
    """Everything needed to resume a run, after an epoch or within one."""

    resume: bytes
    """safetensors: raw weights, optimiser tensors, moving average; within an epoch the loss so far and generators."""
    state: Mapping[str, Any]
    """Other values, JSON-ready: position, compute format, stage, optimiser scalars, schedule, guard, plateau."""


@dataclass
class Position:
    """The number of epochs done, and the state within the current one."""

    epoch: int
    """Epochs done."""
    loss: Tensor
    """Loss of the current epoch, summed over the images so far; a float32 scalar on the device, stored exactly."""
    steps: int = 0
    """Steps done in the current epoch."""
    generators: Mapping[str, Tensor] = field(default_factory=dict)
    """States of torch's generators to restore; empty at the beginning of an epoch."""
    learning_rate: float = 0.0
    """Learning rate of the head after the last step: if the run resumes in the validation, no step sets it again."""
    seconds: dict[str, float] = field(default_factory=lambda: {"training": 0.0, "validation": 0.0})
    """Time spent on the epoch, summed over all processes that worked on it."""

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Add the time inside the block to `part` of the epoch, also after an exception."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] += time.perf_counter() - started

    @classmethod
    def start(cls, epoch: int, device: torch.device) -> Position:
        """Return the position after `epoch` epochs, before the first step of the next."""
        return cls(epoch, torch.zeros((), device=device))

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors to resume from; none between two epochs."""
        return {"loss": self.loss, **with_prefix("generator", self.generators)} if self.steps else {}

    def to_dict(self) -> dict[str, Any]:
        """Return the other values, JSON-ready."""
        return {
            "epoch": self.epoch,
            "steps": self.steps,
            "learning_rate": self.learning_rate,
            "seconds": dict(self.seconds),
        }

    @classmethod
    def restored(cls, tensors: Mapping[str, Tensor], state: Mapping[str, Any], device: torch.device) -> Position:
        """Return the position that `tensors()` and `to_dict()` describe, with its loss on `device`."""
        loss = tensors.get("loss", torch.zeros(())).to(device, copy=True)
        return cls(**state, loss=loss, generators=without_prefix("generator", tensors))


def pack(tensors: Mapping[str, Tensor]) -> bytes:
    """Return safetensors bytes of copies of the tensors, on the CPU and row-major."""
    return save({name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()})


def unpack(content: bytes) -> dict[str, Tensor]:
    """Return the tensors that `pack` wrote, on the CPU."""
    return load(content)


def without_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names begin with `prefix.`, without that prefix."""
    start = f"{prefix}."
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors with `prefix.` before their names; `without_prefix` removes it."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the tensors of the state, as `{parameter number}.{key}`."""
    state: dict[int, dict[str, Any]] = optimiser.state_dict()["state"]
    return {
        f"{number}.{key}": value
        for number, values in state.items()
        for key, value in values.items()
        if isinstance(value, Tensor)
    }


def optimiser_scalars(optimiser: torch.optim.Optimizer) -> dict[str, dict[str, Any]]:
    """Return the rest of the state, as `{parameter number: {key: number or None}}`; JSON-ready."""
    state: dict[int, dict[str, Any]] = optimiser.state_dict()["state"]
    return {
        str(number): {key: value for key, value in values.items() if not isinstance(value, Tensor)}
        for number, values in state.items()
    }


def restore_optimiser(
    optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor], scalars: Mapping[str, Mapping[str, Any]]
) -> None:
    """Restore the state in a new optimiser over the same parameters; its groups and their rates stay."""
    state: dict[int, dict[str, Any]] = {int(number): dict(values) for number, values in scalars.items()}
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    for name, tensor in tensors.items():
        number, _, key = name.partition(".")
        state.setdefault(int(number), {})[key] = _laid_out_like(parameters[int(number)], tensor)
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def _laid_out_like(parameter: Tensor, tensor: Tensor) -> Tensor:
    """Return `tensor` with the strides of its parameter."""
    # A fused kernel reads both in the order of memory.
    if tensor.shape != parameter.shape:
        return tensor
    return torch.empty_like(parameter, dtype=tensor.dtype, device="cpu").copy_(tensor)
