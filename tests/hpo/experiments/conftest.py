"""Drawn cells, and an untrained classifier of them as a bundle."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch

from hpo.bundle.bundle import write_bundle
from hpo.bundle.manifest import RESIZE_RULE, DataOrigin, Manifest, Preprocessing, Weights
from hpo.data import Dataset, SplitOptions, open_dataset
from hpo.data.synthetic import write_cells
from hpo.evaluation.intervals import Score
from hpo.experiments.benchmark import Benchmark, Timing
from hpo.experiments.comparison import ComparisonRow
from hpo.experiments.provenance import Provenance
from hpo.models.built_model import build_model
from search_spaces import TrialConfig

SPLIT = SplitOptions(seed=0, val_fraction=0.2, test_fraction=0.2)
CONFIG = TrialConfig(backbone="mobilenetv2_035", pretrained=False, image_size=32, epochs=3, unfreeze_depth=0.5)

ABOUT = Provenance(
    command="hpo compare a b --data cells", date="2026-01-02T03:04:05+00:00", machine="Linux x86_64, 2 cores",
    device="A Processor", threads=2, seed=0, study="comparison-1", versions={},
    data={"path": "cells", "counts": {"train": 8, "val": 1, "test": 1}, "split": "as given"},
)  # fmt: skip


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cells") / "cells"
    write_cells(folder, 80, size=32, seed=0)
    return folder


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def dataset(cells: Path, cache: Path) -> Dataset:
    return open_dataset(cells, image_size=32, cache=cache, split=SPLIT)


@pytest.fixture(scope="session")
def manifest(dataset: Dataset) -> Manifest:
    return Manifest(
        stage="exported", study="cells", trial=4, metric="accuracy", config=CONFIG, classes=dataset.classes,
        preprocessing=Preprocessing(image_size=32, mean=(0.5,) * 3, std=(0.5,) * 3, resize=RESIZE_RULE),
        epochs=2, best_epoch=2, seed=7, weights=Weights(), versions={},
        data=DataOrigin(
            fingerprint=dataset.fingerprint, split=dataset.split, seed=SPLIT.seed,
            val_fraction=SPLIT.val_fraction, test_fraction=SPLIT.test_fraction,
        ),
    )  # fmt: skip


@pytest.fixture(scope="session")
def weights(dataset: Dataset) -> bytes:
    torch.manual_seed(0)
    return safetensors.torch.save(build_model(CONFIG, len(dataset.classes)).model.state_dict())


def bundled(folder: Path, manifest: Manifest, weights: bytes) -> Path:
    write_bundle(folder, manifest, weights, {"validation": None, "test": None, "test_openings": []})
    return folder


@pytest.fixture
def bundle(tmp_path: Path, manifest: Manifest, weights: bytes) -> Path:
    return bundled(tmp_path / "bundle", manifest, weights)


@pytest.fixture
def benchmark(cells: Path, cache: Path) -> Benchmark:
    return Benchmark(cells, SPLIT, cache, "cpu", test=True, timing=Timing(warmup=1, seconds=0.0, least=1))


def row(label: str, validation: float | None, **changes: object) -> ComparisonRow:
    """Return a row with every figure that there can be."""
    score = None if validation is None else Score.of(validation, 1710)
    values: dict[str, object] = {
        "kind": "preset", "backbone": "mobilenetv2_035", "image_size": 96, "seeds": 1, "epochs": 6,
        "validation": score, "corrupted": Score.of(0.6, 5000), "test": Score.of(0.97, 1000), "macro_f1": 0.96,
        "parameters": 398_690, "trainable_parameters": 398_690, "seconds_per_epoch": 12.34,
        "images_per_second": {1: 101.0, 64: 1234.5}, "peak_memory": 1_300_000_000,
        "conditions": {"noise": {1: 0.9, 2: 0.7}, "blur": {1: 1.0}}, "config": {}, "openings": 1, "folders": ("a",),
        "notes": (), "unseen": Score.of(0.7, 5000), "unseen_conditions": {"motion": {1: 0.8, 5: 0.6}},
    }  # fmt: skip
    return ComparisonRow(label, **{**values, **changes})  # type: ignore[arg-type]
