"""Gradient rollout: how much each image token has told the class token, through all layers of a transformer.

Attention rollout (Abnar and Zuidema 2020) multiplies the layers' attention, and is the same for every class; weighing
attention by its gradient (Chefer et al. 2021, "Generic Attention-model Explainability", equations 5 and 6) makes it
the evidence for one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from hpo.explain.attention import Attention, unfused


@dataclass(frozen=True)
class Rollout:
    """R <- R + E_h[(dlogit/dA * A)+] R over the layers, R = 1 at first; the class token's row of R is the map."""

    name: ClassVar = "rollout"
    network: nn.Module
    attention: Attention

    @property
    def side(self) -> int:
        """Of the maps."""
        return self.attention.side

    def __call__(self, inputs: Tensor, classes: Tensor) -> Tensor:
        """(b, 1, h, h): relevance for `classes` (b,) int64 in `inputs` (b, 3, S, S) normalised; never below 0."""
        from captum.attr import LayerGradientXActivation  # imports matplotlib: seconds

        inputs = inputs.detach().requires_grad_()
        method = LayerGradientXActivation(self.network, list(self.attention.layers))
        with unfused(self.network):
            products = method.attribute(inputs, target=classes)
        return self._class_token(relevance([product.detach() for product in products]))

    def _class_token(self, relevances: Tensor) -> Tensor:
        read = relevances[:, : self.attention.readers, self.attention.prefix :].mean(dim=1)
        return read.reshape(-1, 1, self.side, self.side)


def relevance(products: list[Tensor]) -> Tensor:
    """(b, N, N) R of the layers' gradient times attention (b, heads, N, N), the first layer first."""
    tokens = products[0].shape[-1]
    total = torch.eye(tokens, device=products[0].device).expand(len(products[0]), tokens, tokens)
    for product in products:
        total = total + product.relu().mean(dim=1) @ total
    return total
