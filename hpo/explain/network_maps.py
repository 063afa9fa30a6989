"""The modules of a network that an attribution needs: its attention layers, or its last feature map before pooling.

They are found by running the network once on noise and examining the outputs of its modules.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

IMAGES = 2
"""Images of noise; with one, a batch of images could not be told from a batch of windows."""


@dataclass(frozen=True)
class Trace:
    """Outputs of a network for noise; they depend only on the network and the image size."""

    outputs: dict[str, Tensor]
    """The wanted outputs by module name, in the order in which the modules finished."""
    logits: Tensor
    """(IMAGES, C)."""

    def gradients(self) -> dict[str, Tensor]:
        """Return the gradients of the largest logit by `outputs`, without those that it does not depend on."""
        if not (self.logits.requires_grad and self.outputs):
            return {}
        score = self.logits.amax(dim=1).sum()
        found = torch.autograd.grad(score, list(self.outputs.values()), allow_unused=True)
        return {name: gradient for name, gradient in zip(self.outputs, found, strict=True) if gradient is not None}


def trace(network: nn.Module, size: int, device: torch.device, wanted: Callable[[str, Tensor], bool]) -> Trace:
    """Run `network`, in evaluation mode, on noise images of `size` pixels; keep the outputs that `wanted` accepts."""
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, tuple[object, ...], object], None]:
        def hook(_: nn.Module, __: tuple[object, ...], output: object) -> None:
            outputs.pop(name, None)  # a module that runs twice counts at its last run
            if isinstance(output, Tensor) and output.requires_grad and wanted(name, output):
                outputs[name] = output

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in network.named_modules()]
    try:
        with torch.enable_grad():
            logits = network(noise(size, device).requires_grad_())
    finally:
        for handle in handles:
            handle.remove()
    return Trace(outputs, logits)


def noise(size: int, device: torch.device) -> Tensor:
    """Return (IMAGES, 3, size, size) standard normal values, always the same."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(IMAGES, 3, size, size, generator=generator).to(device)


def prefix_tokens(network: nn.Module) -> int:
    """Return the number of tokens (class, distillation, registers) before those of the image."""
    return int(getattr(backbone_of(network), "num_prefix_tokens", 0))


def backbone_of(network: nn.Module) -> nn.Module:
    """Return the timm model inside a classifier, or the network itself."""
    inner = getattr(network, "backbone", network)
    return inner if isinstance(inner, nn.Module) else network


MAPS = "attn_drop"
"""timm's name for the module that receives the attention weights if attention is not fused."""


@dataclass(frozen=True)
class Attention:
    """Modules whose output is (b, heads, prefix + h h, prefix + h h): each token's attention to all, layer by layer."""

    layers: tuple[nn.Module, ...]
    prefix: int
    readers: int
    """Number of first tokens that the head reads: the class token, and possibly a distillation token."""
    side: int
    """h."""


def find_attention(network: nn.Module, size: int, device: torch.device) -> Attention | None:
    """Return the attention over all tokens of images of `size` pixels; None if the head reads no class token."""
    prefix = prefix_tokens(network)
    if not (prefix and _reads_class_token(network)):
        return None
    with unfused(network):
        found = trace(network, size, device, lambda name, output: name.endswith(MAPS)).outputs
    tokens = {_tokens(output) for output in found.values()}
    image = tokens.pop() - prefix if len(tokens) == 1 else 0
    if image < 4 or math.isqrt(image) ** 2 != image:
        return None
    layers = tuple(network.get_submodule(name) for name in found)
    readers = 2 if hasattr(backbone_of(network), "dist_token") else 1
    return Attention(layers, prefix, readers, math.isqrt(image))


@contextmanager
def unfused(network: nn.Module) -> Iterator[None]:
    """Compute attention step by step inside the block."""
    # A fused kernel does not return the attention weights.
    fused: list[Any] = [module for module in network.modules() if getattr(module, "fused_attn", False)]
    for module in fused:
        module.fused_attn = False
    try:
        yield
    finally:
        for module in fused:
            module.fused_attn = True


def _reads_class_token(network: nn.Module) -> bool:
    backbone = backbone_of(network)
    pooling = getattr(backbone, "global_pool", "token")
    return pooling == "token" and getattr(backbone, "cls_token", None) is not None


def _tokens(output: Tensor) -> int:
    """Return N of weights (IMAGES, heads, N, N); 0 for windows, pooled keys and other shapes without a product."""
    square = output.ndim == 4 and output.shape[0] == IMAGES and output.shape[2] == output.shape[3]
    return output.shape[3] if square else 0


Layout = Literal["channels-first", "channels-last", "tokens"]


@dataclass(frozen=True)
class FeatureMap:
    """A module whose output is a map over the image, and the layout of the map in the output."""

    name: str
    """Name of the module in the network."""
    module: nn.Module
    layout: Layout
    """(b, C, h, h), (b, h, h, C), or (b, prefix + h h, C)."""
    prefix: int
    side: int
    """h."""

    @contextmanager
    def tapped(self) -> Iterator[nn.Module]:
        """Yield a module whose output, inside the block, is the network's feature map as (b, C, h, h)."""
        tap = nn.Identity()

        def through(_: nn.Module, __: tuple[object, ...], output: Tensor) -> Tensor:
            return self._replaced(output, tap(as_map(output, self.layout, self.prefix)))

        handle = self.module.register_forward_hook(through)
        try:
            yield tap
        finally:
            handle.remove()

    def _replaced(self, output: Tensor, values: Tensor) -> Tensor:
        """Return `output` with its map replaced by `values` (b, C, h, h)."""
        if self.layout == "channels-first":
            return values
        if self.layout == "channels-last":
            return values.permute(0, 2, 3, 1)
        return torch.cat([output[:, : self.prefix], values.flatten(2).transpose(1, 2)], dim=1)


def find_feature_map(network: nn.Module, size: int, device: torch.device) -> FeatureMap | None:
    """Return the last map of at least 2 x 2 that the logits depend on, for images of `size` pixels, or None.

    If a transformer reads its class token, the logits do not depend on the image's tokens after the last attention;
    the map is then the input of this attention.
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
    """Return the layout of a square map in a module's output for IMAGES images; None if it is not a map."""
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
    """Return a module's output as (b, C, h, h)."""
    if layout == "channels-first":
        return output
    if layout == "channels-last":
        return output.permute(0, 3, 1, 2)
    tokens = output[:, prefix:]
    side = math.isqrt(tokens.shape[1])
    return tokens.transpose(1, 2).reshape(len(tokens), -1, side, side)


def _inside_attention(name: str) -> bool:
    """Return whether a module is part of an attention."""
    # The product of queries and keys has the shape of a map, but is none.
    return any("attn" in part for part in name.split(".")[:-1])
