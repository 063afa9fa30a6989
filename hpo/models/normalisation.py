"""BatchNorm exchanged for a normalisation that does not depend on the batch, in any network that has one.

Networks that normalise by statistics of the images trained on generalise worse to images that look different (of blood
cells: arXiv 2303.01777), and statistics of small batches are noisy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Self

from timm.layers.norm_act import GroupNormAct, LayerNormAct, LayerNormAct2d
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from hpo.errors import ModelError

CHANNELS_OF_A_GROUP = 32
"""What a group of GroupNorm (Wu and He 2018, arXiv 1803.08494) has, as nearly as the number of channels allows."""


class FrozenBatchNorm(nn.Module):
    """A BatchNorm whose statistics and affine values are fixed: buffers, so that nothing that trains moves them."""

    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor | None
    running_var: Tensor | None

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__()
        self.eps = norm.eps
        for name in ("weight", "bias", "running_mean", "running_var"):
            values = getattr(norm, name)
            self.register_buffer(name, None if values is None else values.detach().clone())
        self.drop, self.act = _dropout_and_activation(norm)
        self.eval()

    def forward(self, inputs: Tensor) -> Tensor:
        """The same shape, each channel scaled and shifted by constants, then the activation."""
        scaled = functional.batch_norm(
            inputs, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
        )  # fmt: skip
        activated: Tensor = self.act(self.drop(scaled))
        return activated

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode."""
        return super().train(False)


def exchange_normalisation(network: nn.Module, kind: str) -> None:
    """Put `kind` (a `TrialConfig.normalisation` other than native) in place of every BatchNorm of `network`.

    Scale, shift and eps are kept, and so is what follows the BatchNorm in one module with it (timm's BatchNormAct2d).
    Raises ModelError where there is no BatchNorm.
    """
    found = [(path, norm) for path, norm in network.named_modules() if isinstance(norm, _BatchNorm)]
    if not found:
        raise ModelError(f"normalisation is {kind!r}, but the backbone has no BatchNorm, so it must be native")
    for path, norm in found:
        network.set_submodule(path, _KINDS[kind](norm))


def channels_of_a_group(channels: int) -> int:
    """The divisor of `channels` nearest to 32 by ratio; the larger of two."""
    divisors = [size for size in range(1, channels + 1) if channels % size == 0]
    return min(divisors, key=lambda size: (abs(math.log(size / CHANNELS_OF_A_GROUP)), -size))


def _group(norm: _BatchNorm) -> nn.Module:
    channels = norm.num_features
    size = channels_of_a_group(channels)
    return _take_over(GroupNormAct(channels, group_size=size, eps=norm.eps, affine=norm.affine, apply_act=False), norm)


def _layer(norm: _BatchNorm) -> nn.Module:
    """Over the channels of each position; a BatchNorm1d has (b, C) features, a BatchNorm2d (b, C, H, W) maps."""
    kind = LayerNormAct if isinstance(norm, nn.BatchNorm1d) else LayerNormAct2d
    return _take_over(kind(norm.num_features, eps=norm.eps, affine=norm.affine, apply_act=False), norm)


def _take_over(new: nn.Module, norm: _BatchNorm) -> nn.Module:
    """`new` with the affine parameters of `norm` and what follows it."""
    new.weight, new.bias = norm.weight, norm.bias
    new.drop, new.act = _dropout_and_activation(norm)
    return new.train(norm.training)


def _dropout_and_activation(norm: _BatchNorm) -> tuple[nn.Module, nn.Module]:
    """Dropout and activation of timm's BatchNormAct2d; of a plain BatchNorm nothing."""
    return getattr(norm, "drop", nn.Identity()), getattr(norm, "act", nn.Identity())


_KINDS: Mapping[str, Callable[[_BatchNorm], nn.Module]] = MappingProxyType(
    {"frozen-batch": FrozenBatchNorm, "group": _group, "layer": _layer}
)
