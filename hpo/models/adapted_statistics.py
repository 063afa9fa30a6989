"""Statistics of BatchNorm re-estimated on other images than it was trained on, without labels.

A BatchNorm expects the mean and variance of the images that it was trained on; under another light, stain or camera
they are others. Mixing the trained statistics with those of a few new images mends much of that (Schneider et al. 2020,
Improving robustness against common corruptions by covariate shift adaptation, arXiv 2006.16971, equation 1: with n
images and the trained statistics counted as N images, mean = N/(N+n) trained + n/(N+n) new, and variances likewise).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.hooks import RemovableHandle

from hpo.models.normalisation import FrozenBatchNorm

PRIOR = 16
"""N, the number of images that the trained statistics count as; best for 8 to 64 new images in the paper's figure 3."""


@dataclass(frozen=True)
class StatisticsChange:
    """How far the statistics of a network moved."""

    layers: int
    share: float
    """Share of the new statistics in the mixture, n / (N + n)."""
    layer: str
    """The layer that moved most. Those above it see what it has normalised already, so few others move."""
    shift: float
    """Mean over its channels of the distance between new and trained mean, in trained standard deviations."""
    spread: float
    """Geometric mean over its channels of the larger over the smaller of new and trained standard deviation."""


@dataclass
class _Layer:
    """A normalisation with fixed statistics, and the sums of what it has seen."""

    name: str
    norm: _BatchNorm | FrozenBatchNorm
    mean: Tensor
    var: Tensor
    images: int = 0
    sums: list[Tensor] = field(default_factory=list)

    def observe(self, inputs: Tensor, share: float) -> None:
        """Count a batch of inputs (b, C, …), and normalise it by its own statistics mixed with the trained ones."""
        rest = [axis for axis in range(inputs.ndim) if axis != 1]
        values = inputs.float()
        mean, square = values.mean(rest).double(), values.square().mean(rest).double()
        self.images += len(inputs)
        self.sums = [
            total + len(inputs) * value
            for total, value in zip(self.sums or [torch.zeros_like(mean)] * 2, (mean, square), strict=True)
        ]
        self._mix(mean, square, share)

    def finish(self, share: float) -> None:
        """Mix in the statistics of all images."""
        mean, square = (total / self.images for total in self.sums)
        self._mix(mean, square, share)

    def _mix(self, mean: Tensor, square: Tensor, share: float) -> None:
        var = (square - mean.square()).clamp(min=0)
        for buffer, trained, new in ((self.norm.running_mean, self.mean, mean), (self.norm.running_var, self.var, var)):
            assert buffer is not None
            buffer.copy_((1 - share) * trained + share * new)

    def moved(self) -> tuple[float, float]:
        """Return the mean over the channels of the shift, and of the logarithm of the ratio of standard deviations."""
        assert self.norm.running_mean is not None
        assert self.norm.running_var is not None
        before, after = (self.var + self.norm.eps).sqrt(), (self.norm.running_var.double() + self.norm.eps).sqrt()
        shift = (self.norm.running_mean.double() - self.mean).abs() / before
        return float(shift.mean()), float((after / before).log().abs().mean())


def normalised_by_statistics(network: nn.Module) -> dict[str, _BatchNorm | FrozenBatchNorm]:
    """Return the modules of `network` that normalise by statistics of the images of the training, by name."""
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, _BatchNorm | FrozenBatchNorm) and module.running_var is not None
    }


@torch.no_grad()
def adapt_statistics(
    network: nn.Module, batches: Iterable[Tensor], images: int, *, prior: float = PRIOR
) -> StatisticsChange:
    """Mix the statistics of `images` images into those of `network`, which stays in evaluation mode.

    `batches` are inputs (b, 3, S, S), normalised, on the network's device. While a batch passes, each layer normalises
    by the batch's own statistics in the same mixture, so that what comes above is seen as the adapted network sees it;
    the statistics that are kept are those of all images. With one batch this is the paper's method exactly.
    """
    network.eval()
    share = images / (prior + images)
    layers = [_layer(*named) for named in normalised_by_statistics(network).items()]
    handles = [_watch(layer, share) for layer in layers]
    try:
        for batch in batches:
            network(batch)
    finally:
        for handle in handles:
            handle.remove()
    seen = [layer for layer in layers if layer.images]
    for layer in seen:
        layer.finish(share)
    most = max(seen, key=lambda layer: sum(layer.moved()))
    shift, ratio = most.moved()
    return StatisticsChange(len(seen), share, most.name, shift, math.exp(ratio))


def _layer(name: str, norm: _BatchNorm | FrozenBatchNorm) -> _Layer:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return _Layer(name, norm, norm.running_mean.double().clone(), norm.running_var.double().clone())


def _watch(layer: _Layer, share: float) -> RemovableHandle:
    def before_forward(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        layer.observe(inputs[0], share)

    return layer.norm.register_forward_pre_hook(before_forward)
