"""The attention layers of a transformer that reads a class token."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hpo.explain.probe import IMAGES, backbone_of, prefix_tokens, trace

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
