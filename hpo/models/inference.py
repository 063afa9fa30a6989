"""Logits of many images, in batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from hpo.augmentation.background import prepared, with_background
from hpo.data.dataset import Images, Part, rows_in_order
from hpo.evaluation.metrics import Logits
from hpo.models.compute_format import ComputeFormat, Normaliser
from hpo.models.feeds import plain_feed
from hpo.models.memory import in_pieces
from search_spaces import Background


class Predictor:
    """A network in evaluation mode with its normalisation and compute format, placed on a device once."""

    def __init__(
        self,
        network: nn.Module,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        device: str = "cpu",
        precision: str = "fp32",
        background: Background = "keep",
    ) -> None:
        """Move `network` itself to `device` and put it into evaluation mode."""
        self._background = background
        self._device = torch.device(device)
        self._format = ComputeFormat(precision)
        self._network = self._format.place(network, self._device).eval()
        self._normalise = Normaliser(mean, std, self._device, self._format)

    def logits(self, images: Iterable[Images] | Part, *, batch_size: int = 64) -> Logits:
        """Return logits (n, C) float32 of batches of (b, S, S, 3) uint8 images, or of a part, in their order.

        `batch_size` applies to a part; given batches keep their own sizes.
        """
        batches = map(self._normalise, self._uploaded(images, batch_size))
        return _forward_all(self._network, batches, self._format).float().cpu().numpy()

    def _uploaded(self, images: Iterable[Images] | Part, batch_size: int) -> Iterator[Tensor]:
        if isinstance(images, Part):
            part = prepared(images, self._background)
            yield from plain_feed(part, self._device).epoch(rows_in_order(len(images), batch_size), 0)
            return
        for batch in images:
            seen = with_background(batch, self._background)
            yield torch.from_numpy(np.require(seen, requirements=["C", "W"])).to(self._device)


def compute_outputs(network: nn.Module, batches: Iterable[Tensor], compute_format: ComputeFormat) -> Tensor:
    """Return the outputs of `network` in evaluation mode for batches of network inputs, on the device.

    Batches are computed in pieces if the memory is not enough. Raises MemoryError if one image alone does not fit.
    """
    with evaluation_mode(network):
        return _forward_all(network, batches, compute_format)


@contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Put the network into evaluation mode within the block, and back into its mode after it."""
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)


@torch.inference_mode()
def _forward_all(network: nn.Module, batches: Iterable[Tensor], compute_format: ComputeFormat) -> Tensor:
    parts = list(in_pieces(lambda batch: _forward(network, batch, compute_format), batches))
    return torch.cat(parts) if parts else torch.empty(0, 0)


def _forward(network: nn.Module, batch: Tensor, compute_format: ComputeFormat) -> Tensor:
    with compute_format.autocast(batch.device):
        result: Tensor = network(batch)
    return result
