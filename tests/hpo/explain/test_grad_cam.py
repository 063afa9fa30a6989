"""Grad-CAM follows the paper in every layout, and marks the pixels that the network uses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from hpo.bundle.model import Network
from hpo.explain.methods import attribution_for
from hpo.explain.saliency import Saliency

from .conftest import CPU, SIZE, Blind, ChannelsLast, Tokens, toy


def by_hand(network: nn.Sequential, inputs: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Equations 1 and 2 of Selvaraju et al. (2017) without the ReLU, for the toy network."""
    features = network[:2](inputs).detach().requires_grad_()
    logits = network[3:](network[2](features)) if len(network) == 5 else network[2:](features)
    (gradient,) = torch.autograd.grad(logits.gather(1, classes[:, None]).sum(), features)
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    return (weights * features).sum(dim=1, keepdim=True).detach()


@pytest.mark.parametrize("last", [None, ChannelsLast(), Tokens()], ids=["channels first", "channels last", "tokens"])
def test_the_map_is_the_weighted_sum_of_the_channels(last: nn.Module | None) -> None:
    network = toy(last)
    network.num_prefix_tokens = 1 if isinstance(last, Tokens) else 0
    inputs, classes = torch.randn(3, 3, SIZE, SIZE), torch.tensor([0, 3, 1])
    found = attribution_for(network, SIZE, CPU)(inputs, classes)
    assert found.shape == (3, 1, SIZE // 4, SIZE // 4)
    assert torch.allclose(found, by_hand(network, inputs, classes), atol=1e-6)
    assert not inputs.requires_grad
    assert all(parameter.grad is None for parameter in network.parameters())


def test_the_map_marks_the_pixels_that_the_network_uses() -> None:
    network = Network(toy(Blind()), (0.5,) * 3, (0.5,) * 3, 1.0)
    images = np.random.default_rng(0).integers(0, 256, (8, SIZE, SIZE, 3), dtype=np.uint8)
    for fine in (True, False):
        heat = Saliency.of([network], SIZE, "cpu", fine=fine)(images, [0, 1, 2, 3] * 2)
        seen = heat[heat.any(axis=(1, 2))]
        assert len(seen) > 2
        assert seen[:, : SIZE // 2, : SIZE // 2].sum() > 0.9 * seen.sum()
