"""Small sets of coloured squares in three classes, which any network learns within seconds on one core."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from hpo.data.dataset import Part
from hpo.training import FitData
from search_spaces import TrialConfig

SIZE = 32
CLASSES = 3


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def short_collections() -> None:
    """Exclude objects loaded before the test from the garbage collections after each lack of memory."""
    gc.freeze()


def coloured(count: int, seed: int = 0, size: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """Return noisy images (count, size, size, 3) uint8 with the channel of their class brightened, and labels."""
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.arange(count) % CLASSES)
    images = generator.integers(0, 120, (count, size, size, 3), dtype=np.uint8)
    images[np.arange(count), :, :, labels] += 100
    return images, labels


def part_of(images: np.ndarray, labels: np.ndarray, rows: np.ndarray) -> Part:
    return Part(images, rows, labels[rows], [f"{row}.png" for row in rows])


@pytest.fixture
def data() -> FitData:
    """Return 25 training images and 12 validation images."""
    images, labels = coloured(37)
    return FitData(part_of(images, labels, np.arange(25)), part_of(images, labels, np.arange(25, 37)), CLASSES)


@pytest.fixture
def config() -> Callable[..., TrialConfig]:
    """Return a function that makes a fast configuration, changed by keywords."""

    def make(**changes: object) -> TrialConfig:
        values = {
            "backbone": "test_resnet",
            "pretrained": False,
            "image_size": SIZE,
            "batch_size": 8,
            "epochs": 3,
            "augmentation": "none",
            "symmetry": "dihedral",
            **changes,
        }
        return TrialConfig.from_dict(values)

    return make
