"""A network run once on noise, to see which of its modules give what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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
