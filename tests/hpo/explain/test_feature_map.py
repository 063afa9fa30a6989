"""The last map before pooling is found in every family of networks and in every layout."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from torch import nn

from hpo.bundle.model import Network
from hpo.errors import ModelError
from hpo.explain.methods import attribution_for
from hpo.explain.network_maps import find_feature_map
from hpo.explain.saliency import Saliency
from hpo.models.classifier import Classifier

from .conftest import CPU, SIZE, ChannelsLast, Tokens, toy

SWIN = {"img_size": 56, "depths": (1, 1, 1, 1), "embed_dim": 12, "num_heads": (1, 2, 2, 2)}
TINY = {"img_size": 64, "embed_dim": 24, "depth": 2, "num_heads": 2}
CONVOLUTIONAL = {
    "mobilenetv2_035": ({}, 64, "bn2"),
    "mobilenetv3_small_050": ({}, 64, "blocks"),
    "resnet18": ({}, 64, "layer4"),
    "convnext_atto": ({}, 64, "norm_pre"),
    "efficientnet_lite0": ({}, 64, "bn2"),
    "efficientnetv2_rw_t": ({}, 64, "bn2"),
    "vgg11": ({"mlp_ratio": 0.01}, 64, "features"),
    "swin_tiny_patch4_window7_224": (SWIN, 56, "norm"),
}
TRANSFORMERS = {
    "vit_tiny_patch16_224": (TINY, 64, "rollout"),
    "deit_tiny_distilled_patch16_224": (TINY, 64, "rollout"),
    "vit_small_patch14_reg4_dinov2": ({**TINY, "img_size": 56}, 56, "rollout"),
    "beit_base_patch16_224": (TINY, 64, "grad-cam"),  # pools all tokens
    "cait_xxs24_224": (TINY, 64, "grad-cam"),  # its class token joins late
}


def classifier(name: str, options: dict[str, object]) -> Classifier:
    """With all parameters frozen, as those of a trained head on fixed features are."""
    torch.manual_seed(0)
    backbone = timm.create_model(name, pretrained=False, num_classes=0, **options)
    width = getattr(backbone, "head_hidden_size", None) or backbone.num_features
    return Classifier(backbone, nn.Linear(width, 3)).eval().requires_grad_(requires_grad=False)


def heat(network: nn.Module, size: int, method: str = "auto") -> np.ndarray:
    images = np.random.default_rng(0).integers(0, 256, (3, size, size, 3), dtype=np.uint8)
    steps = Network(network, (0.5,) * 3, (0.5,) * 3, 1.0)
    return Saliency.of([steps], size, "cpu", method, fine=False)(images, [0, 1, 2])


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_networks_with_feature_maps(name: str) -> None:
    options, size, layer = CONVOLUTIONAL[name]
    network = classifier(name, options)
    found = find_feature_map(network, size, CPU)
    assert found is not None
    assert (found.name, found.side) == (f"backbone.{layer}", 2)
    assert found.layout == ("channels-last" if name.startswith("swin") else "channels-first")
    maps = heat(network, size)
    assert maps.shape == (3, size, size)
    assert 0 <= maps.min() < maps.max() == 1


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers(name: str) -> None:
    options, size, method = TRANSFORMERS[name]
    network = classifier(name, options)
    found = attribution_for(network, size, CPU)
    assert (found.name, found.side) == (method, 4)
    for maps in (heat(network, size), heat(network, size, "grad-cam")):
        assert maps.shape == (3, size, size)
        assert 0 <= maps.min() < maps.max() == 1


def test_the_map_of_a_class_token_is_the_input_of_its_last_attention() -> None:
    options, size, _ = TRANSFORMERS["vit_tiny_patch16_224"]
    found = find_feature_map(classifier("vit_tiny_patch16_224", options), size, CPU)
    assert found is not None
    assert (found.name, found.layout, found.prefix) == ("backbone.blocks.1.norm1", "tokens", 1)


@pytest.mark.parametrize(("last", "layout"), [(None, "channels-first"), (ChannelsLast(), "channels-last")])
def test_layouts(last: nn.Module | None, layout: str) -> None:
    found = find_feature_map(toy(last), SIZE, CPU)
    assert found is not None
    assert (found.name, found.layout, found.side) == ("1" if last is None else "2", layout, SIZE // 4)


@pytest.mark.parametrize("last", [None, ChannelsLast(), Tokens()])
def test_a_tap_changes_nothing(last: nn.Module | None) -> None:
    network = toy(last)
    network.num_prefix_tokens = 1 if isinstance(last, Tokens) else 0
    found = find_feature_map(network, SIZE, CPU)
    assert found is not None
    inputs, seen = torch.randn(3, 3, SIZE, SIZE), []
    with torch.no_grad():
        expected = network(inputs)
        with found.tapped() as tap:
            tap.register_forward_hook(lambda module, given, output: seen.append(output))
            assert torch.equal(network(inputs), expected)
        network(inputs)
    assert [tuple(values.shape) for values in seen] == [(3, 5, SIZE // 4, SIZE // 4)]


def test_a_map_that_the_logits_do_not_depend_on_is_skipped() -> None:
    class Side(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.read, self.unread = toy(), nn.Conv2d(3, 2, 2, stride=2)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits = self.read(images)
            self.unread(images)
            return logits

    found = find_feature_map(Side(), SIZE, CPU)
    assert found is not None
    assert found.name == "read.1"


@pytest.mark.parametrize(
    "network",
    [
        nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 4)),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4)),
    ],
    ids=["no map", "one pixel"],
)
def test_a_network_without_a_map_is_refused(network: nn.Module) -> None:
    with pytest.raises(
        ModelError, match=r"no feature map of images of 32 pixels .*; give a bundle of a trained network"
    ):
        attribution_for(network, SIZE, CPU)


def test_a_network_that_ignores_the_image_is_refused() -> None:
    class Always(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(images), 4)

    with pytest.raises(ModelError, match="that its logits depend on"):
        attribution_for(Always(), SIZE, CPU)


def test_the_layer_does_not_depend_on_the_random_state() -> None:
    torch.manual_seed(3)
    one = find_feature_map(toy(), SIZE, CPU)
    torch.manual_seed(4)
    other = find_feature_map(toy(), SIZE, CPU)
    assert one is not None
    assert other is not None
    assert one.name == other.name
