"""Small sets of coloured squares: three classes that any network can tell apart, in a moment on one core."""

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
def short_collections() -> Iterator[None]:
    """The collection of garbage after each lack of memory passes over all that was loaded before the test."""
    gc.freeze()
    yield
    gc.unfreeze()


def coloured(count: int, seed: int = 0, size: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """`count` noisy images (count, size, size, 3) uint8, the channel of the class brightened, and labels."""
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.arange(count) % CLASSES)
    images = generator.integers(0, 120, (count, size, size, 3), dtype=np.uint8)
    images[np.arange(count), :, :, labels] += 100
    return images, labels


def part_of(images: np.ndarray, labels: np.ndarray, rows: np.ndarray) -> Part:
    return Part(images, rows, labels[rows], [f"{row}.png" for row in rows])


@pytest.fixture
def data() -> FitData:
    """25 images to train on and 12 to validate on."""
    images, labels = coloured(37)
    return FitData(part_of(images, labels, np.arange(25)), part_of(images, labels, np.arange(25, 37)), CLASSES)


@pytest.fixture
def config() -> Callable[..., TrialConfig]:
    """A configuration that trains in a moment; keywords change it."""

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
