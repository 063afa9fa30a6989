"""The last feature map of a network before it is pooled, whatever its layout."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from hpo.explain.probe import IMAGES, prefix_tokens, trace

Layout = Literal["channels-first", "channels-last", "tokens"]


@dataclass(frozen=True)
class FeatureMap:
    """A module whose output is a map over the image, and how it lies in there."""

    name: str
    """Of the module in the network."""
    module: nn.Module
    layout: Layout
    """(b, C, h, h), (b, h, h, C), or (b, prefix + h h, C)."""
    prefix: int
    side: int
    """h."""

    @contextmanager
    def tapped(self) -> Iterator[nn.Module]:
        """A module whose output, while the block lasts, is the network's feature map as (b, C, h, h)."""
        tap = nn.Identity()

        def through(_: nn.Module, __: tuple[object, ...], output: Tensor) -> Tensor:
            return self._replaced(output, tap(as_map(output, self.layout, self.prefix)))

        handle = self.module.register_forward_hook(through)
        try:
            yield tap
        finally:
            handle.remove()

    def _replaced(self, output: Tensor, values: Tensor) -> Tensor:
        """`output` with `values` (b, C, h, h) for its map."""
        if self.layout == "channels-first":
            return values
        if self.layout == "channels-last":
            return values.permute(0, 2, 3, 1)
        return torch.cat([output[:, : self.prefix], values.flatten(2).transpose(1, 2)], dim=1)


def find_feature_map(network: nn.Module, size: int, device: torch.device) -> FeatureMap | None:
    """The last map of at least 2 x 2 that the logits depend on, of images of `size` pixels; None where there is none.

    Where a transformer reads its class token, the image's tokens after the last attention are lost on the logits;
    the map is then the one that this attention takes.
    """
    prefix = prefix_tokens(network)

    def wanted(name: str, output: Tensor) -> bool:
        return not _inside_attention(name) and layout_of(output, prefix) is not None

    found = trace(network, size, device, wanted)
    for name, gradient in reversed(found.gradients().items()):
        layout = layout_of(gradient, prefix)
        if layout and as_map(gradient, layout, prefix).any():
            side = as_map(gradient, layout, prefix).shape[-1]
            return FeatureMap(name, network.get_submodule(name), layout, prefix, side)
    return None


def layout_of(output: Tensor, prefix: int) -> Layout | None:
    """How a square map lies in a module's output for IMAGES images; None where it is no map."""
    shape = output.shape
    if len(shape) not in (3, 4) or shape[0] != IMAGES:
        return None
    if len(shape) == 3:
        tokens = shape[1] - prefix
        return "tokens" if tokens >= 4 and math.isqrt(tokens) ** 2 == tokens else None
    if shape[2] == shape[3] > 1:
        return "channels-first"
    return "channels-last" if shape[1] == shape[2] > 1 else None


def as_map(output: Tensor, layout: Layout, prefix: int) -> Tensor:
    """(b, C, h, h) of a module's output."""
    if layout == "channels-first":
        return output
    if layout == "channels-last":
        return output.permute(0, 3, 1, 2)
    tokens = output[:, prefix:]
    side = math.isqrt(tokens.shape[1])
    return tokens.transpose(1, 2).reshape(len(tokens), -1, side, side)


def _inside_attention(name: str) -> bool:
    """Whether a module is part of an attention: queries by keys look like a map and are none."""
    return any("attn" in part for part in name.split(".")[:-1])
