"""From uint8 images to what a network takes, on the device that they lie on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hpo.training.numerics import NumberFormat


class Normaliser:
    """(b, S, S, 3) uint8 -> (b, 3, S, S) float in the format's precision and layout: (x / 255 - mean) / std.

    And V views of each image, (b, V, S, S, 3), to (b, V, 3, S, S).
    """

    def __init__(
        self, mean: Sequence[float], std: Sequence[float], device: torch.device, number_format: NumberFormat
    ) -> None:
        middle = torch.tensor(mean, dtype=torch.float32)
        spread = torch.tensor(std, dtype=torch.float32)
        self._scale = (1 / (255 * spread)).to(device)
        self._shift = (-middle / spread).to(device)
        self._format = number_format

    def __call__(self, images: Tensor) -> Tensor:
        """Normalised in float32, then cast: the channels-last layout is that of the uint8 images and costs no copy."""
        values = images.to(torch.float32).mul_(self._scale).add_(self._shift).to(self._format.dtype)
        flat = values.flatten(0, -4).permute(0, 3, 1, 2).contiguous(memory_format=self._format.memory_format)
        return flat.view(*images.shape[:-3], *flat.shape[1:])
