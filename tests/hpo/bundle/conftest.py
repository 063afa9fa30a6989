"""A tiny untrained classifier as a bundle, and small images of three distinct colours."""

import hashlib
import io
import json
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import safetensors.torch
import torch
from PIL import Image

from hpo.bundle import bundle as layout
from hpo.bundle.bundle import write_bundle
from hpo.bundle.manifest import RESIZE_RULE, DataOrigin, Manifest, Preprocessing, Weights
from hpo.data import SplitOptions, open_dataset
from hpo.models.built_model import build_model
from hpo.training import FitData, Runtime, fit
from search_spaces import TrialConfig
from storage import StudySpec, open_store
from storage.spec import write_spec

CLASSES = ("blue", "green", "red")
SIZE = 32
SPLIT = SplitOptions(seed=3, val_fraction=0.2, test_fraction=0.2)
CONFIG = TrialConfig(
    backbone="mobilenetv2_035", pretrained=False, image_size=SIZE, epochs=3, batch_size=8, precision="fp32",
    augmentation="none", symmetry="dihedral",
)  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def no_home(monkeypatch, tmp_path_factory):
    """Let no test meet the `.hpo` of whoever runs it."""
    monkeypatch.setenv("HPO_HOME", str(tmp_path_factory.getbasetemp() / "no-home"))


@pytest.fixture(scope="session")
def weights() -> bytes:
    """Random weights of the tiny network, as safetensors."""
    torch.manual_seed(0)
    network = build_model(CONFIG, len(CLASSES)).model
    return safetensors.torch.save(network.state_dict())


def write_format_1(path: Path, manifest: Manifest, weights: bytes) -> None:
    """Return a bundle as the first version of the layout had it."""
    path.mkdir()
    (path / layout.MODEL).write_bytes(weights)
    added = ("calibration", "members", "ingredients")
    values = {key: value for key, value in manifest.to_dict().items() if key not in added}
    digests = {layout.MODEL: hashlib.sha256(weights).hexdigest()}
    (path / layout.CONFIG).write_text(json.dumps({"bundle_format": 1, **values, "sha256": digests}))
    (path / layout.METRICS).write_text(json.dumps({"validation": None, "test": None, "test_openings": []}))


def draw(folder: Path, per_class: int, seed: int, size: int = 40) -> Path:
    """Return `per_class` noisy images of each of the three colours, in class folders."""
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
    """Return the images, split as the bundles of these tests remember."""
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
    """Return a bundle on disk, no test part opened yet."""
    path = tmp_path / "bundle"
    write_bundle(path, manifest, weights, {"validation": None, "test": None, "test_openings": []})
    return path


@dataclass(frozen=True)
class Trained:
    """The content of a trial's checkpoint."""

    config: TrialConfig
    weights: bytes
    logits: np.ndarray
    facts: dict[str, Any]


@pytest.fixture(scope="session")
def trained(dataset, tmp_path_factory) -> list[Trained]:
    """Return three trials of the tiny network from one set of weights, each with a learning rate of its own."""
    torch.set_num_threads(1)
    torch.manual_seed(1)
    start = tmp_path_factory.mktemp("start") / "start.safetensors"
    safetensors.torch.save_file(build_model(CONFIG, len(CLASSES)).model.backbone.state_dict(), start)
    common = CONFIG.replace(pretrained=True, weights=str(start), epochs=2)
    configs = [common.replace(learning_rate=rate) for rate in (2e-3, 1e-3, 3e-3)]
    return [_train(config, dataset, seed) for seed, config in enumerate(configs)]


def _train(config: TrialConfig, dataset, seed: int) -> Trained:
    data, runtime = FitData(dataset.train, dataset.val, len(CLASSES)), Runtime(seed=seed)
    with closing(fit(config, data, runtime)) as epochs:
        *_, last = ((result.weights(), result.logits, dict(result.facts)) for result in epochs)
    return Trained(config, *last)


@pytest.fixture
def study(dataset, trained):
    """Return a study of these trials, the first the best by its value."""
    study = optuna.create_study(study_name="colours", direction="maximize")
    data = {
        "classes": list(CLASSES), "split": dataset.split, "seed": SPLIT.seed, "val_fraction": SPLIT.val_fraction,
        "test_fraction": SPLIT.test_fraction, "max_unreadable": 0.05,
    }  # fmt: skip
    spec = StudySpec(
        space={}, space_fingerprint="s", data=data, data_fingerprint=dataset.fingerprint, metric="accuracy", seed=3,
        sampler="tpe", pruner="none",
    )  # fmt: skip
    write_spec(study, spec)
    for number, one in enumerate(trained):
        add_trial(study, one.config, one.facts, value=0.9 - number / 100)
    return study


def add_trial(study, config: TrialConfig, facts: dict[str, Any], value: float, **attributes: Any) -> int:
    """Add a complete trial without a checkpoint, and return its number."""
    known = {"config": config.to_dict(), "best_epoch": 2, "seed": 1, "facts": facts, "versions": {"torch": "2"}}
    known |= attributes
    study.add_trial(optuna.trial.create_trial(value=value, user_attrs=known))
    return len(study.trials) - 1


@pytest.fixture
def store(tmp_path, trained, dataset):
    """Return the checkpoints of these trials."""
    store = open_store(tmp_path / "artifacts", "colours")
    for number, one in enumerate(trained):
        keep(store, number, one, dataset.val.labels)
    return store


def keep(store, number: int, one: Trained, labels: np.ndarray) -> None:
    """Write the checkpoint of a trial."""
    files = {"model.safetensors": one.weights, "logits.npy": npy(one.logits), "labels.npy": npy(labels)}
    store.write(number, "best", files, {"epoch": 2, "metrics": {}})


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()
