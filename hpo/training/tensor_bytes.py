"""Tensors by name <-> safetensors bytes, and the state of an optimiser in such tensors. No pickle anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor


def pack(tensors: Mapping[str, Tensor]) -> bytes:
    """safetensors bytes of copies of the tensors, on the CPU and row-major."""
    return save({name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()})


def unpack(content: bytes) -> dict[str, Tensor]:
    """The tensors that `pack` wrote, on the CPU."""
    return load(content)


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix.`, without it."""
    start = f"{prefix}."
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
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
