"""Gradient rollout follows the class token, for the requested class."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from hpo.bundle.model import Network
from hpo.errors import ModelError
from hpo.explain.methods import attribution_for, relevance
from hpo.explain.network_maps import find_attention, unfused
from hpo.explain.saliency import Saliency

from .conftest import CPU, SIZE, keeps_quadrant, toy

SIDE, WIDTH = 4, 6


class Glance(nn.Module):
    """A class token that attends to the upper left quadrant of 4 x 4 patches, and only to it, in one layer."""

    num_prefix_tokens = 1
    global_pool = "token"

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.patches = nn.Conv2d(3, WIDTH, SIZE // SIDE, stride=SIZE // SIDE)
        self.attn_drop = nn.Dropout(0.5)
        self.head = nn.Linear(WIDTH, 4)
        self.fused_attn = True

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], dim=1)
        weights = self.weights().expand(len(tokens), 2, -1, -1)
        attended = (weights if self.fused_attn else self.attn_drop(weights)).mean(dim=1) @ tokens
        return self.head(attended[:, 0])

    def weights(self) -> Tensor:
        """Return (N, N) rows that sum to 1: of the class token over the quadrant, of the others over all."""
        quadrant = keeps_quadrant(torch.ones(SIDE, SIDE)).flatten()
        weights = torch.full((1 + SIDE**2, 1 + SIDE**2), 1 / (1 + SIDE**2))
        weights[0] = torch.cat([torch.zeros(1), quadrant / quadrant.sum()])
        return (weights + 0 * self.cls_token.sum())[None, None]


def vit(name: str = "vit_tiny_patch16_224", **options: object) -> nn.Module:
    torch.manual_seed(0)
    sizes = {"img_size": 64, "embed_dim": 24, "depth": 3, "num_heads": 2, "num_classes": 4}
    return timm.create_model(name, pretrained=False, **{**sizes, **options}).eval()


def test_the_recursion_is_that_of_the_paper() -> None:
    products = [torch.randn(2, 3, 5, 5) for _ in range(4)]
    expected = np.tile(np.eye(5), (2, 1, 1))
    for product in products:
        expected = expected + np.maximum(product.numpy(), 0).mean(axis=1) @ expected
    assert np.allclose(relevance(products).numpy(), expected, atol=1e-4)


def test_the_map_marks_the_tokens_that_the_class_token_attends_to() -> None:
    network = Network(Glance().eval(), (0.5,) * 3, (0.5,) * 3, 1.0)
    images = np.random.default_rng(0).integers(0, 256, (8, SIZE, SIZE, 3), dtype=np.uint8)
    explain = Saliency.of([network], SIZE, "cpu", fine=False)
    assert explain.method == "rollout"
    heat = explain(images, [0, 1, 2, 3] * 2)
    seen = heat[heat.any(axis=(1, 2))]
    assert len(seen) > 2
    assert seen[:, : SIZE // 2, : SIZE // 2].sum() > 0.75 * seen.sum()  # the rest is the enlargement's


def test_another_class_has_another_map() -> None:
    found = attribution_for(vit(), 64, CPU)
    inputs = torch.randn(2, 3, 64, 64)
    one, other = found(inputs, torch.tensor([0, 0])), found(inputs, torch.tensor([3, 3]))
    assert one.shape == (2, 1, 4, 4)
    assert (one >= 0).all()
    assert not torch.allclose(one / one.sum(), other / other.sum(), rtol=1e-2)


def test_fused_attention_is_restored() -> None:
    network = vit()
    modules = [module for module in network.modules() if hasattr(module, "fused_attn")]
    before = [module.fused_attn for module in modules]
    inputs = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        fused = network(inputs)
        with unfused(network):
            assert not any(module.fused_attn for module in modules)
            assert torch.allclose(network(inputs), fused, atol=1e-5)
    attribution_for(network, 64, CPU)(inputs, torch.tensor([0, 1]))
    assert [module.fused_attn for module in modules] == before


def test_a_distillation_token_is_read_as_well() -> None:
    found = find_attention(vit("deit_tiny_distilled_patch16_224"), 64, CPU)
    assert found is not None
    assert (found.prefix, found.readers, found.side, len(found.layers)) == (2, 2, 4, 3)


def test_registers_are_not_read() -> None:
    found = find_attention(vit("vit_small_patch14_reg4_dinov2", img_size=56), 56, CPU)
    assert found is not None
    assert (found.prefix, found.readers, found.side) == (5, 1, 4)


@pytest.mark.parametrize("network", [toy(), vit(global_pool="avg")], ids=["no attention", "all tokens are pooled"])
def test_a_network_without_class_token_is_refused(network: nn.Module) -> None:
    with pytest.raises(ModelError, match="no attention that a class token reads; give --method grad-cam"):
        attribution_for(network, 64, CPU, "rollout")
    assert attribution_for(network, 64, CPU).name == "grad-cam"
