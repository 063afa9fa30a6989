"""Tensors by name <-> safetensors bytes, and the state of an optimiser in such tensors. No pickle anywhere.

Position: how far a run has come, down to the step.

What `fit()` yields: one EpochResult after another, each able to give its weights and the state to go on from.
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


def pack(tensors: Mapping[str, Tensor]) -> bytes:
    """safetensors bytes of copies of the tensors, on the CPU and row-major."""
    return save({name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()})


def unpack(content: bytes) -> dict[str, Tensor]:
    """The tensors that `pack` wrote, on the CPU."""
    return load(content)


def without_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix.`, without it."""
    start = f"{prefix}."
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with `prefix.` before their names; `under` takes it off."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Tensors of the state, as `{parameter number}.{key}`."""
    state: dict[int, dict[str, Any]] = optimiser.state_dict()["state"]
    return {
        f"{number}.{key}": value
        for number, values in state.items()
        for key, value in values.items()
        if isinstance(value, Tensor)
    }


def optimiser_scalars(optimiser: torch.optim.Optimizer) -> dict[str, dict[str, Any]]:
    """The rest of the state, as `{parameter number: {key: number or None}}`; JSON-ready."""
    state: dict[int, dict[str, Any]] = optimiser.state_dict()["state"]
    return {
        str(number): {key: value for key, value in values.items() if not isinstance(value, Tensor)}
        for number, values in state.items()
    }


def restore_optimiser(
    optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor], scalars: Mapping[str, Mapping[str, Any]]
) -> None:
    """Give a new optimiser over the same parameters the state of another; its groups and their rates stay."""
    state: dict[int, dict[str, Any]] = {int(number): dict(values) for number, values in scalars.items()}
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    for name, tensor in tensors.items():
        number, _, key = name.partition(".")
        state.setdefault(int(number), {})[key] = _laid_out_like(parameters[int(number)], tensor)
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def _laid_out_like(parameter: Tensor, tensor: Tensor) -> Tensor:
    """`tensor` with the strides of its parameter: a fused kernel walks through both as plain memory."""
    if tensor.shape != parameter.shape:
        return tensor
    return torch.empty_like(parameter, dtype=tensor.dtype, device="cpu").copy_(tensor)


@dataclass
class Position:
    """The epochs that are done, and what the steps of the one under way have come to."""

    epoch: int
    """Epochs done."""
    loss: Tensor
    """Of the epoch under way, summed over the images shown; a float32 scalar on the device, kept to the last bit."""
    steps: int = 0
    """Of the epoch under way."""
    generators: Mapping[str, Tensor] = field(default_factory=dict)
    """States of torch's generators to go on from; none where the epoch begins."""
    learning_rate: float = 0.0
    """Of the head, once the last step is done: validation may be all that is left of the epoch."""
    seconds: dict[str, float] = field(default_factory=lambda: {"training": 0.0, "validation": 0.0})
    """Spent on the epoch, in every process that worked on it."""

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Count the time inside, however it is left, to `part` of the epoch."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] += time.perf_counter() - started

    @classmethod
    def start(cls, epoch: int, device: torch.device) -> Position:
        """After `epoch` epochs, before the first step of the next."""
        return cls(epoch, torch.zeros((), device=device))

    def tensors(self) -> dict[str, Tensor]:
        """The tensors to go on from; none between two epochs."""
        return {"loss": self.loss, **with_prefix("generator", self.generators)} if self.steps else {}

    def to_dict(self) -> dict[str, Any]:
        """The rest, JSON-ready."""
        return {
            "epoch": self.epoch,
            "steps": self.steps,
            "learning_rate": self.learning_rate,
            "seconds": dict(self.seconds),
        }

    @classmethod
    def restored(cls, tensors: Mapping[str, Tensor], state: Mapping[str, Any], device: torch.device) -> Position:
        """The position that `tensors()` and `to_dict()` describe, its sums on `device`."""
        loss = tensors.get("loss", torch.zeros(())).to(device, copy=True)
        return cls(**state, loss=loss, generators=without_prefix("generator", tensors))


@dataclass(frozen=True)
class Snapshot:
    """Everything needed to go on, after an epoch or within one. Plain bytes and JSON: no pickle."""

    resume: bytes
    """safetensors: raw weights, optimiser tensors, moving average; within an epoch the loss so far and generators."""
    state: Mapping[str, Any]
    """JSON-ready rest: epochs and steps done, compute format, stage, optimiser scalars, schedule, guard, patience."""


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
