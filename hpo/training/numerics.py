"""NumberFormat: the precision of the arithmetic and the layout of the images in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import torch
from torch import nn

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class NumberFormat:
    """How a network computes. Weights stay float32; autocast computes in the precision where it is safe."""

    precision: str = "fp32"
    """fp32, bf16 or fp16."""
    channels_last: bool = True

    @property
    def dtype(self) -> torch.dtype:
        """Of the images that enter the network."""
        return DTYPES[self.precision]

    @property
    def memory_format(self) -> torch.memory_format:
        """Of images and convolution weights."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def autocast(self, device: torch.device) -> torch.autocast:
        """The context of a forward pass."""
        return torch.autocast(device.type, dtype=self.dtype, enabled=self.precision != "fp32")

    def placed(self, model: Module, device: torch.device) -> Module:
        """`model` itself, moved to the device and into the memory format."""
        return model.to(device).to(memory_format=self.memory_format)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> NumberFormat:
        """The format that `to_dict` wrote."""
        return cls(str(values["precision"]), bool(values["channels_last"]))
