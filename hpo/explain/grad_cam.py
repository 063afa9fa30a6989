"""Grad-CAM (Selvaraju et al. 2017): a network's last feature map, its channels weighed by the gradient of a logit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from hpo.explain.feature_map import FeatureMap


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
