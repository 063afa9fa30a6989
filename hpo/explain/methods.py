"""Two attribution methods, Grad-CAM and gradient rollout, and the choice between them for a network.

Grad-CAM (Selvaraju et al. 2017) weights the channels of the last feature map by the gradient of a logit.

Gradient rollout measures how much each image token contributes to the class token of a transformer. Attention rollout
(Abnar and Zuidema 2020) multiplies the attention of the layers, so it is the same for every class; weighting attention
by its gradient (Chefer et al. 2021, "Generic Attention-model Explainability", equations 5 and 6) makes it specific to
one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from hpo.errors import ModelError
from hpo.explain.network_maps import Attention, FeatureMap, find_attention, find_feature_map, unfused


@dataclass(frozen=True)
class GradCam:
    """Equations 1 and 2 of Selvaraju et al. 2017, before the ReLU, computed by captum."""

    name: ClassVar = "grad-cam"
    network: nn.Module
    feature_map: FeatureMap

    @property
    def side(self) -> int:
        """Cells of a map along each axis."""
        return self.feature_map.side

    def __call__(self, inputs: Tensor, classes: Tensor) -> Tensor:
        """Return (b, 1, h, h) evidence of either sign for `classes` (b,) int64 in normalised `inputs` (b, 3, S, S)."""
        from captum.attr import LayerGradCam  # imports matplotlib: seconds

        inputs = inputs.detach().requires_grad_()  # if all layers are frozen, nothing else requires gradients
        with self.feature_map.tapped() as tap:
            found: Tensor = LayerGradCam(self.network, tap).attribute(inputs, target=classes)
        return found.detach()


@dataclass(frozen=True)
class Rollout:
    """R <- R + E_h[(dlogit/dA * A)+] R over the layers, from R = 1; the map is the class token's row of R."""

    name: ClassVar = "rollout"
    network: nn.Module
    attention: Attention

    @property
    def side(self) -> int:
        """Cells of a map along each axis."""
        return self.attention.side

    def __call__(self, inputs: Tensor, classes: Tensor) -> Tensor:
        """Return (b, 1, h, h) relevance of `classes` (b,) int64 in normalised `inputs` (b, 3, S, S), at least 0."""
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
    """Return (b, N, N) R from the products of gradient and attention (b, heads, N, N), in the order of the layers."""
    tokens = products[0].shape[-1]
    total = torch.eye(tokens, device=products[0].device).expand(len(products[0]), tokens, tokens)
    for product in products:
        total = total + product.relu().mean(dim=1) @ total
    return total


Method = Literal["auto", "grad-cam", "rollout"]


class Attribution(Protocol):
    """Evidence for a class over an image, on a coarse square grid."""

    @property
    def name(self) -> str:
        """Name of the method: grad-cam or rollout."""

    @property
    def side(self) -> int:
        """h, the cells of the grid along each axis."""

    def __call__(self, inputs: Tensor, classes: Tensor) -> Tensor:
        """Return (b, 1, h, h) for `inputs` (b, 3, S, S), normalised float32, and `classes` (b,) int64."""


def attribution_for(network: nn.Module, size: int, device: torch.device, method: Method = "auto") -> Attribution:
    """Return the method for images of `size` pixels; `auto` is rollout if the head reads a class token, else Grad-CAM.

    Raises ModelError if the network has no feature map or, for `rollout`, reads no class token.
    """
    attention = find_attention(network, size, device) if method != "grad-cam" else None
    if attention is not None:
        return Rollout(network, attention)
    if method == "rollout":
        raise ModelError(
            "method is rollout, but the network has no attention that a class token reads; give --method grad-cam"
        )
    feature_map = find_feature_map(network, size, device)
    if feature_map is None:
        raise ModelError(
            f"the network has no feature map of images of {size} pixels that its logits depend on: there is nothing "
            "to explain; give a bundle of a trained network, or one for larger images"
        )
    return GradCam(network, feature_map)
