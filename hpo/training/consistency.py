"""AugMix's consistency: an image and its augmented views are to be given the same answer (Hendrycks et al. 2020)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class OverViews(nn.Module):
    """A network of images, over V views of each: (b, V, 3, S, S) -> (b, V, C). BatchNorm sees them as one batch."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, views: Tensor) -> Tensor:
        """Logits (b, V, C)."""
        logits: Tensor = self.network(views.flatten(0, 1))
        return logits.view(*views.shape[:2], -1)


class ConsistencyLoss(nn.Module):
    """The loss of the first view, the image itself, plus `weight` times the divergence of all views (arXiv 1912.02781,
    equation 2, `weight` being its λ)."""

    def __init__(self, classification: nn.Module, weight: float) -> None:
        super().__init__()
        self.classification = classification
        self.weight = weight

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The scalar mean over the images: logits (b, V, C) float32, targets (b,) int64."""
        loss: Tensor = self.classification(logits[:, 0], targets)
        return loss + self.weight * jensen_shannon(logits)


def jensen_shannon(logits: Tensor) -> Tensor:
    """Jensen-Shannon divergence in nats of the answers to V views, a mean over the images: logits (b, V, C) -> ().

    The mean over the views of KL(p_v || m), m being the mean of all p_v (arXiv 1912.02781, equation 3).
    """
    log_p = torch.log_softmax(logits, dim=2)
    log_m = torch.logsumexp(log_p, dim=1, keepdim=True) - math.log(logits.shape[1])
    return (log_p.exp() * (log_p - log_m)).sum(dim=2).mean()
