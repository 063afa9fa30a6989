"""Which method explains a network."""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from hpo.errors import ModelError
from hpo.explain.attention import find_attention
from hpo.explain.feature_map import find_feature_map
from hpo.explain.grad_cam import GradCam
from hpo.explain.rollout import Rollout

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
