"""Grad-CAM (Selvaraju et al. 2017): a network's last feature map, its channels weighed by the gradient of a logit.

Gradient rollout: how much each image token has told the class token, through all layers of a transformer.

Attention rollout (Abnar and Zuidema 2020) multiplies the layers' attention, and is the same for every class; weighing
attention by its gradient (Chefer et al. 2021, "Generic Attention-model Explainability", equations 5 and 6) makes it
the evidence for one.

Which method explains a network.
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
    """Their equations 1 and 2, before the ReLU, by captum."""

    name: ClassVar = "grad-cam"
    network: nn.Module
    feature_map: FeatureMap

    @property
    def side(self) -> int:
        """Of the maps."""
        return self.feature_map.side

    def __call__(self, inputs: Tensor, classes: Tensor) -> Tensor:
        """(b, 1, h, h): evidence for `classes` (b,) int64 in `inputs` (b, 3, S, S) normalised; below 0 against it."""
        from captum.attr import LayerGradCam  # imports matplotlib: seconds

        inputs = inputs.detach().requires_grad_()  # where all layers are frozen, nothing else asks for gradients
        with self.feature_map.tapped() as tap:
            found: Tensor = LayerGradCam(self.network, tap).attribute(inputs, target=classes)
        return found.detach()


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


Method = Literal["auto", "grad-cam", "rollout"]


class Attribution(Protocol):
    """Evidence for a class over an image, on a coarse square grid."""

    @property
    def name(self) -> str:
        """Of the method: grad-cam or rollout."""

    @property
    def side(self) -> int:
        """h, the cells of the grid along each axis."""

    def __call__(self, inputs: Tensor, classes: Tensor) -> Tensor:
        """(b, 1, h, h) for `inputs` (b, 3, S, S) normalised float32 and `classes` (b,) int64."""


def attribution_for(network: nn.Module, size: int, device: torch.device, method: Method = "auto") -> Attribution:
    """The method for images of `size` pixels; `auto` is rollout where a class token is read, else Grad-CAM.

    Raises ModelError where the network has no feature map or, for `rollout`, reads no class token.
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
