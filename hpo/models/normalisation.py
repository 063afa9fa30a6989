"""Exchange of BatchNorm for a normalisation that does not depend on the batch, in any network that has BatchNorm.

Networks that normalise by statistics of their training images generalise worse to images that look different (for
blood cells: arXiv 2303.01777), and statistics of small batches are noisy.
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
"""Channels of a group in GroupNorm (Wu and He 2018, arXiv 1803.08494), as nearly as their number allows."""


class FrozenBatchNorm(nn.Module):
    """A BatchNorm with fixed statistics and affine values: they are buffers, so training does not change them."""

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
        """Scale and shift each channel by constants, then apply the activation; the shape stays."""
        scaled = functional.batch_norm(
            inputs, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
        )  # fmt: skip
        activated: Tensor = self.act(self.drop(scaled))
        return activated

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode."""
        return super().train(False)


def exchange_normalisation(network: nn.Module, kind: str) -> None:
    """Replace every BatchNorm of `network` by `kind`, a `TrialConfig.normalisation` other than native.

    Scale, shift and eps are kept, and so are dropout and activation that share a module with the BatchNorm (timm's
    BatchNormAct2d). Raises ModelError if there is no BatchNorm.
    """
    found = [(path, norm) for path, norm in network.named_modules() if isinstance(norm, _BatchNorm)]
    if not found:
        raise ModelError(f"normalisation is {kind!r}, but the backbone has no BatchNorm, so it must be native")
    for path, norm in found:
        network.set_submodule(path, _KINDS[kind](norm))


def channels_of_a_group(channels: int) -> int:
    """Return the divisor of `channels` nearest to 32 by ratio; of two equally near, the larger."""
    divisors = [size for size in range(1, channels + 1) if channels % size == 0]
    return min(divisors, key=lambda size: (abs(math.log(size / CHANNELS_OF_A_GROUP)), -size))


def _group(norm: _BatchNorm) -> nn.Module:
    channels = norm.num_features
    size = channels_of_a_group(channels)
    return _take_over(GroupNormAct(channels, group_size=size, eps=norm.eps, affine=norm.affine, apply_act=False), norm)


def _layer(norm: _BatchNorm) -> nn.Module:
    """Return a LayerNorm over the channels of each position, of (b, C) features or (b, C, H, W) maps as `norm` is."""
    kind = LayerNormAct if isinstance(norm, nn.BatchNorm1d) else LayerNormAct2d
    return _take_over(kind(norm.num_features, eps=norm.eps, affine=norm.affine, apply_act=False), norm)


def _take_over(new: nn.Module, norm: _BatchNorm) -> nn.Module:
    """Give `new` the affine parameters, dropout and activation of `norm`, and return it."""
    new.weight, new.bias = norm.weight, norm.bias
    new.drop, new.act = _dropout_and_activation(norm)
    return new.train(norm.training)


def _dropout_and_activation(norm: _BatchNorm) -> tuple[nn.Module, nn.Module]:
    """Return dropout and activation of timm's BatchNormAct2d; for a plain BatchNorm two identities."""
    return getattr(norm, "drop", nn.Identity()), getattr(norm, "act", nn.Identity())


_KINDS: Mapping[str, Callable[[_BatchNorm], nn.Module]] = MappingProxyType(
    {"frozen-batch": FrozenBatchNorm, "group": _group, "layer": _layer}
)
