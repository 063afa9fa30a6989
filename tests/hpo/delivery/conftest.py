"""A tiny untrained classifier as a bundle, and small images of three kinds that a person could tell apart."""

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from hpo.data import SplitOptions, open_dataset
from hpo.delivery.bundle import write_bundle
from hpo.delivery.manifest import RESIZE_RULE, DataOrigin, Manifest, Preprocessing, Weights
from hpo.training.model import build_model
from search_spaces import TrialConfig

CLASSES = ("blue", "green", "red")
SIZE = 32
SPLIT = SplitOptions(seed=3, val_fraction=0.2, test_fraction=0.2)
CONFIG = TrialConfig(
    backbone="mobilenetv2_035", pretrained=False, image_size=SIZE, epochs=3, batch_size=8, precision="fp32",
    augmentation="none",
)  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def weights() -> bytes:
    """Random weights of the tiny network, as safetensors."""
    torch.manual_seed(0)
    network = build_model(CONFIG, len(CLASSES)).model
    return safetensors.torch.save(network.state_dict())


def draw(folder: Path, per_class: int, seed: int, size: int = 40) -> Path:
    """`per_class` noisy images of each of the three colours, in class folders."""
    generator = np.random.default_rng(seed)
    for channel, name in zip((2, 1, 0), CLASSES, strict=True):
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            pixels = generator.integers(0, 120, (size, size, 3), dtype=np.uint8)
            pixels[:, :, channel] += 120
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture(scope="session")
def images(tmp_path_factory) -> Path:
    """Thirty images without a split: the data that bundles of these tests were made with."""
    return draw(tmp_path_factory.mktemp("data") / "colours", 10, seed=0)


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def dataset(images, cache):
    """The images, split as the bundles of these tests remember."""
    return open_dataset(images, image_size=SIZE, cache=cache, split=SPLIT)


@pytest.fixture(scope="session")
def manifest(dataset) -> Manifest:
    return Manifest(
        stage="exported", study="colours", trial=4, metric="accuracy", config=CONFIG, classes=CLASSES,
        preprocessing=Preprocessing(image_size=SIZE, mean=(0.5,) * 3, std=(0.5,) * 3, resize=RESIZE_RULE),
        epochs=2, best_epoch=2, seed=7, weights=Weights(), versions={"torch": "2"},
        data=DataOrigin(
            fingerprint=dataset.fingerprint, split=dataset.split, seed=SPLIT.seed,
            val_fraction=SPLIT.val_fraction, test_fraction=SPLIT.test_fraction,
        ),
    )  # fmt: skip


@pytest.fixture
def bundle(tmp_path, manifest, weights) -> Path:
    """A bundle on disk, no test part opened yet."""
    path = tmp_path / "bundle"
    write_bundle(path, manifest, weights, {"validation": None, "test": None, "test_openings": []})
    return path
