"""Tiny networks whose reasons are known, and a tiny bundle."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import hpo
from hpo.bundle.bundle import write_bundle
from hpo.bundle.manifest import RESIZE_RULE, DataOrigin, Manifest, Preprocessing, Weights
from hpo.bundle.model import Model
from hpo.models.built_model import build_model
from search_spaces import TrialConfig

SIZE = 32
CPU = torch.device("cpu")
CLASSES = ("blue", "green", "red")
CONFIG = TrialConfig(backbone="test_resnet", pretrained=False, image_size=SIZE, precision="fp32", augmentation="none")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def keeps_quadrant(image: Tensor) -> Tensor:
    """Return the values with 0 outside the upper left quadrant of the last two axes."""
    mask = torch.zeros_like(image)
    mask[..., : image.shape[-2] // 2, : image.shape[-1] // 2] = 1
    return image * mask


class Blind(nn.Module):
    """Maps (b, C, h, w) of which all but the upper left quadrant is 0."""

    def forward(self, values: Tensor) -> Tensor:
        return keeps_quadrant(values)


class ChannelsLast(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        return values.permute(0, 2, 3, 1)


class Tokens(nn.Module):
    """(b, 1 + h w, C): a token of zeros, then the pixels."""

    def forward(self, values: Tensor) -> Tensor:
        pixels = values.flatten(2).transpose(1, 2)
        return torch.cat([torch.zeros_like(pixels[:, :1]), pixels], dim=1)


class MeanPixel(nn.Module):
    """(b, C) of any of the layouts."""

    def forward(self, values: Tensor) -> Tensor:
        if values.ndim == 3:
            return values[:, 1:].mean(dim=1)
        return values.mean(dim=(1, 2)) if values.shape[1] == values.shape[2] else values.mean(dim=(2, 3))


def toy(last: nn.Module | None = None) -> nn.Sequential:
    """Return a network (b, 3, S, S) -> (b, 4) with a map of 5 channels, a quarter of the side, in layout `last`."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(3, 5, 4, stride=4), nn.ReLU()]
    return nn.Sequential(*layers, *([last] if last else []), MeanPixel(), nn.Linear(5, 4)).eval()


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    weights = safetensors.torch.save(build_model(CONFIG, len(CLASSES)).model.state_dict())
    manifest = Manifest(
        stage="exported", study="colours", trial=0, metric="accuracy", config=CONFIG, classes=CLASSES,
        preprocessing=Preprocessing(image_size=SIZE, mean=(0.5,) * 3, std=(0.5,) * 3, resize=RESIZE_RULE),
        epochs=1, best_epoch=1, seed=0, weights=Weights(), versions={},
        data=DataOrigin(fingerprint="0", split="", seed=0, val_fraction=0.1, test_fraction=0.1),
    )  # fmt: skip
    path = tmp_path_factory.mktemp("explain") / "bundle"
    write_bundle(path, manifest, weights, {"validation": None, "test": None, "test_openings": []})
    return path


@pytest.fixture(scope="session")
def model(bundle: Path) -> Model:
    return hpo.load(bundle, device="cpu")


@pytest.fixture(scope="session")
def images() -> np.ndarray:
    """Return (5, SIZE, SIZE, 3) uint8 of noise."""
    return np.random.default_rng(1).integers(0, 256, (5, SIZE, SIZE, 3), dtype=np.uint8)
