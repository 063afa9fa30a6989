"""Logits of many images, in batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from hpo.data.dataset import Images, Part, rows_in_order
from hpo.evaluation.metrics import Logits
from hpo.models.compute_format import ComputeFormat, Normaliser
from hpo.models.feeds import plain_feed
from hpo.models.memory import in_pieces


def predict_logits(
    model: nn.Module,
    images: Iterable[Images] | Part,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    device: str = "cpu",
    batch_size: int = 64,
    precision: str = "fp32",
) -> Logits:
    """Logits (n, C) float32 of batches of (b, S, S, 3) uint8 images, or of a part, in their order.

    The model is moved to `device`; it computes in evaluation mode and is then in the mode that it was in.
    `batch_size` is that of a part; batches that are given keep their own.
    """
    place = torch.device(device)
    compute_format = ComputeFormat(precision)
    normalise = Normaliser(mean, std, place, compute_format)
    compute_format.place(model, place)
    return outputs(model, map(normalise, _uploaded(images, place, batch_size)), compute_format).float().cpu().numpy()


def outputs(network: nn.Module, batches: Iterable[Tensor], compute_format: ComputeFormat) -> Tensor:
    """What `network` gives for each batch of network inputs, one after the other, on the device.

    In smaller batches where the memory is not enough; MemoryError where one image alone does not fit.
    """
    with evaluation_mode(network), torch.inference_mode():
        parts = list(in_pieces(lambda batch: _forward(network, batch, compute_format), batches))
    return torch.cat(parts) if parts else torch.empty(0, 0)


@contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; the mode of before outside."""
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)


def _forward(network: nn.Module, batch: Tensor, compute_format: ComputeFormat) -> Tensor:
    with compute_format.autocast(batch.device):
        result: Tensor = network(batch)
    return result


def _uploaded(images: Iterable[Images] | Part, device: torch.device, batch_size: int) -> Iterator[Tensor]:
    if isinstance(images, Part):
        yield from plain_feed(images, device).epoch(rows_in_order(len(images), batch_size), 0)
        return
    for batch in images:
        yield torch.from_numpy(np.require(batch, requirements=["C", "W"])).to(device)
