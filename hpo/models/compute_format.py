"""The format that a network computes in (precision and memory layout), and uint8 images normalised into it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class ComputeFormat:
    """Precision and memory layout. Weights stay float32; autocast uses the precision in operations where it is safe."""

    precision: str = "fp32"
    """fp32, bf16 or fp16."""
    channels_last: bool = True

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the images that enter the network."""
        return DTYPES[self.precision]

    @property
    def memory_format(self) -> torch.memory_format:
        """Memory format of images and convolution weights."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def autocast(self, device: torch.device) -> torch.autocast:
        """Return the autocast context for a forward pass."""
        return torch.autocast(device.type, dtype=self.dtype, enabled=self.precision != "fp32")

    def place(self, model: Module, device: torch.device) -> Module:
        """Move `model` itself to the device and into the memory format, and return it."""
        return model.to(device).to(memory_format=self.memory_format)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ComputeFormat:
        """Return the format that `to_dict` wrote."""
        return cls(str(values["precision"]), bool(values["channels_last"]))


class Normaliser:
    """Computes (x / 255 - mean) / std in the format's precision and layout: (b, S, S, 3) uint8 -> (b, 3, S, S) float.

    V views of each image, (b, V, S, S, 3), become (b, V, 3, S, S).
    """

    def __init__(
        self, mean: Sequence[float], std: Sequence[float], device: torch.device, compute_format: ComputeFormat
    ) -> None:
        middle = torch.tensor(mean, dtype=torch.float32)
        spread = torch.tensor(std, dtype=torch.float32)
        self._scale = (1 / (255 * spread)).to(device)
        self._shift = (-middle / spread).to(device)
        self._format = compute_format

    def __call__(self, images: Tensor) -> Tensor:
        """Return the images normalised in float32, then cast to the format's precision."""
        values = images.to(torch.float32).mul_(self._scale).add_(self._shift).to(self._format.dtype)
        # The uint8 images lie channels last in memory, so the channels-last format costs no copy.
        flat = values.flatten(0, -4).permute(0, 3, 1, 2).contiguous(memory_format=self._format.memory_format)
        return flat.view(*images.shape[:-3], *flat.shape[1:])
