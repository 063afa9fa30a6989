"""A network run once on noise, to see which of its modules give what.

The attention layers of a transformer that reads a class token.

The last feature map of a network before it is pooled, whatever its layout.
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
"""One alone would not tell a batch of images from a batch of windows."""


@dataclass(frozen=True)
class Trace:
    """What a network gave for noise: it depends on the network and the image size alone."""

    outputs: dict[str, Tensor]
    """By module name, those that were wanted, in the order in which the modules ended, the last one last."""
    logits: Tensor
    """(IMAGES, C)."""

    def gradients(self) -> dict[str, Tensor]:
        """The largest logit's gradient by each of `outputs`; those that it does not depend on are left out."""
        if not (self.logits.requires_grad and self.outputs):
            return {}
        score = self.logits.amax(dim=1).sum()
        found = torch.autograd.grad(score, list(self.outputs.values()), allow_unused=True)
        return {name: gradient for name, gradient in zip(self.outputs, found, strict=True) if gradient is not None}


def trace(network: nn.Module, size: int, device: torch.device, wanted: Callable[[str, Tensor], bool]) -> Trace:
    """`network`, in evaluation mode, on two noisy images of `size` pixels; keeps the outputs that `wanted` takes."""
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, tuple[object, ...], object], None]:
        def hook(_: nn.Module, __: tuple[object, ...], output: object) -> None:
            outputs.pop(name, None)  # a module that runs twice takes its later place
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
    """(IMAGES, 3, size, size) standard normal values, always the same."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(IMAGES, 3, size, size, generator=generator).to(device)


def prefix_tokens(network: nn.Module) -> int:
    """How many tokens (class, distillation, registers) a backbone puts before those of the image."""
    return int(getattr(backbone_of(network), "num_prefix_tokens", 0))


def backbone_of(network: nn.Module) -> nn.Module:
    """The timm model inside a classifier, or the network itself."""
    inner = getattr(network, "backbone", network)
    return inner if isinstance(inner, nn.Module) else network


MAPS = "attn_drop"
"""timm's name for what an attention's weights pass through when they are not fused away."""


@dataclass(frozen=True)
class Attention:
    """Modules whose output is (b, heads, prefix + h h, prefix + h h): each token's attention to all, layer by layer."""

    layers: tuple[nn.Module, ...]
    prefix: int
    readers: int
    """Tokens from the first that the head reads: the class token, and a distillation token after it."""
    side: int
    """h."""


def find_attention(network: nn.Module, size: int, device: torch.device) -> Attention | None:
    """The attention over all tokens of images of `size` pixels; None where no class token reads it."""
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
    """Attention computed step by step while the block lasts: a fused kernel does not give its weights away."""
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
    """N of weights (IMAGES, heads, N, N); 0 for windows, pooled keys and others that cannot be multiplied up."""
    square = output.ndim == 4 and output.shape[0] == IMAGES and output.shape[2] == output.shape[3]
    return output.shape[3] if square else 0


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
