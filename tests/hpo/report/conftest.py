"""Data of studies and models of any size, without a database or a network; and a small bundle with its images."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from hpo.bundle.bundle import Bundle, write_bundle
from hpo.bundle.calibrate import calibration_of
from hpo.bundle.manifest import RESIZE_RULE, DataOrigin, Manifest, Preprocessing, Weights
from hpo.bundle.validation import Validation
from hpo.data import SplitOptions, open_dataset
from hpo.data.synthetic import write_cells
from hpo.evaluation.metrics import report
from hpo.models.built_model import build_model
from hpo.report.model_data import ReportOptions
from hpo.report.study_data import StudyData, TrialData
from hpo.search.trial_record import TrialRecord
from search_spaces import TrialConfig, load_space
from storage import StudySpec

SIZE = 32
SPLIT = SplitOptions(seed=3, val_fraction=0.25, test_fraction=0.2)
CONFIG = TrialConfig(
    backbone="mobilenetv2_035", pretrained=False, image_size=SIZE, epochs=3, batch_size=8, precision="fp32",
    augmentation="none", symmetry="dihedral",
)  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def make_trials(count: int, epochs: int = 6, seed: int = 0) -> list[TrialData]:
    """Trials of a search over four parameters of all kinds, two thirds of them pruned, some failed."""
    generator = np.random.default_rng(seed)
    trials = []
    for number in range(count):
        state = ("complete", "pruned", "pruned", "failed")[number % 4] if number % 20 == 3 else "pruned"
        state = "complete" if number % 3 == 0 else state
        done = epochs if state == "complete" else 1 + number % 3
        curve = () if state == "failed" else tuple(np.sort(generator.uniform(0.2, 0.95, done)).round(4).tolist())
        params = {
            "learning_rate": float(10 ** generator.uniform(-5, -1)),
            "batch_size": int(generator.choice([32, 64, 128])),
            "optimiser": str(generator.choice(["adamw", "sgd", "lion"])),
        }
        if params["optimiser"] == "sgd":
            params["dropout"] = float(generator.uniform(0, 0.5))
        trials.append(
            TrialData(
                number=number, state=state, value=max(curve, default=None), curve=curve, epochs=epochs, params=params,
                seconds=10.0 * done, ended=20.0 * (number + 1),
                record=TrialRecord(
                    device="cpu", precision="fp32", peak_memory=10**9, images_per_second=500.0,
                    reason="OSError: no" if state == "failed" else None,
                ),
            )
        )  # fmt: skip
    return trials


def make_study(
    count: int, *, space: dict | None = None, classes: Sequence[str] = ("blue", "green", "red")
) -> StudyData:
    """Return a study of `count` trials made with the space `quick` and some values fixed."""
    space = space or load_space("quick").with_fixed({"image_size": 32, "epochs": 6}).to_dict()
    from search_spaces import SearchSpace

    spec = StudySpec(
        space=space, space_fingerprint=SearchSpace.from_dict(space).fingerprint, data_fingerprint="d" * 64,
        data={
            "classes": list(classes), "counts": {"train": 80, "val": 20, "test": 10}, "split": "stratified", "seed": 3,
            "val_fraction": 0.25, "test_fraction": 0.2, "max_unreadable": 0.05,
        },
        metric="accuracy", seed=3, weights_digest=None, sampler="tpe", pruner="hyperband",
    )  # fmt: skip
    trials = make_trials(count)
    complete = [trial for trial in trials if trial.state == "complete"]
    best = max(complete, key=lambda trial: trial.value or 0).number if complete else None
    return StudyData("colours", spec, trials, best, count)


def make_validation(classes: int, n: int, seed: int = 0) -> Validation:
    """Predictions that are mostly right and too sure of themselves; the last class has one image alone."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, max(1, classes - 1), n).astype(np.int64)
    labels[0] = classes - 1
    logits = generator.normal(0, 2, (n, classes))
    logits[np.arange(n), labels] += 6
    return Validation(labels, (2 * logits).astype(np.float32))


def make_manifest(classes: Sequence[str], **changes: object) -> Manifest:
    values = {
        "stage": "exported", "study": "colours", "trial": 4, "metric": "accuracy", "config": CONFIG,
        "classes": tuple(classes), "epochs": 2, "best_epoch": 2, "seed": 7, "weights": Weights(),
        "curve": (0.5, 0.75, 0.7), "versions": {"torch": "2"},
        "preprocessing": Preprocessing(image_size=SIZE, mean=(0.5,) * 3, std=(0.5,) * 3, resize=RESIZE_RULE),
        "data": DataOrigin(
            fingerprint="f" * 64, split="stratified", seed=3, val_fraction=0.25, test_fraction=0.2,
            counts={"train": 80, "val": 20, "test": 10},
        ),
    }  # fmt: skip
    return Manifest(**(values | changes))


def make_bundle(classes: Sequence[str], n: int = 200, **changes: object) -> Bundle:
    """Return a bundle in memory, with predictions and without weights."""
    validation = make_validation(len(classes), n)
    manifest = make_manifest(classes, calibration=calibration_of(validation), **changes)
    metrics = {"validation": report(*validation, classes).to_dict(), "test": None, "test_openings": []}
    return Bundle(Path("best"), manifest, metrics, b"", validation)


@dataclass(frozen=True)
class Cells:
    """A bundle on disk, its images, and how to make a report of them."""

    bundle: Path
    images: Path
    options: ReportOptions

    def metrics(self) -> dict:
        return json.loads((self.bundle / "metrics.json").read_text())


@pytest.fixture(scope="session")
def drawn(tmp_path_factory):
    """Return images of cells, and the folder in which they are packed."""
    images = tmp_path_factory.mktemp("data") / "cells"
    write_cells(images, 96, size=SIZE, seed=0)
    return images, tmp_path_factory.mktemp("cache")


@pytest.fixture
def cells(drawn, tmp_path) -> Cells:
    images, cache = drawn
    dataset = open_dataset(images, image_size=SIZE, cache=cache, split=SPLIT)
    torch.manual_seed(0)
    weights = safetensors.torch.save(build_model(CONFIG, len(dataset.classes)).model.state_dict())
    found = make_validation(len(dataset.classes), len(dataset.val))
    validation = Validation(dataset.val.labels, found.logits)
    origin = DataOrigin(
        fingerprint=dataset.fingerprint, split=dataset.split, seed=SPLIT.seed, val_fraction=SPLIT.val_fraction,
        test_fraction=SPLIT.test_fraction,
    )  # fmt: skip
    manifest = make_manifest(dataset.classes, data=origin, calibration=calibration_of(validation))
    metrics = {"validation": report(*validation, dataset.classes).to_dict(), "test": None, "test_openings": []}
    write_bundle(tmp_path / "bundle", manifest, weights, metrics, validation=validation)
    return Cells(tmp_path / "bundle", images, ReportOptions(cache, "cpu"))


def section_of(page: str, key: str) -> str:
    """Return the HTML of one section."""
    found = re.search(rf'<section id="{key}".*?</section>', page, re.DOTALL)
    assert found, f"the page has no section {key}"
    return found.group()
