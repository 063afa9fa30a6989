from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hpo.bundle.access_ledger import AccessCounts
from hpo.bundle.bundle import read_bundle
from hpo.bundle.evaluate import evaluate
from hpo.bundle.manifest import Manifest
from hpo.bundle.model import load
from hpo.bundle.stored_metrics import new_opening, record_opening
from hpo.corruptions import CORRUPTIONS
from hpo.data import Dataset, ImageDigests, Part
from hpo.errors import DataError
from hpo.evaluation.corrupted_copy import CorruptedCopy, corrupted_copy
from hpo.evaluation.metrics import wilson
from hpo.experiments.benchmark import BATCHES, Benchmark
from hpo.experiments.compared_model import ComparedModel, Cost
from hpo.experiments.comparison import measure_row, trainable_parameters
from hpo.models.built_model import build_model, count_parameters
from hpo.training.tuning import device_name
from hpo.unseen_corruptions import UNSEEN

from .conftest import CONFIG, SPLIT, bundled


def test_the_scores_equal_those_of_evaluate(benchmark: Benchmark, bundle: Path, cells: Path, cache: Path) -> None:
    found = benchmark.measure(bundle)
    expected = evaluate(load(bundle, "cpu"), cells, cache=cache, split="val").report
    assert found.validation is not None
    assert (found.validation.value, found.validation.interval) == (expected.accuracy, expected.interval)
    assert found.macro_f1 == expected.macro_f1


def test_the_corrupted_copy_is_the_validation_part_under_every_corruption(
    benchmark: Benchmark, bundle: Path, dataset: Dataset, cache: Path
) -> None:
    found = benchmark.measure(bundle)
    copy = corrupted_copy(dataset.val, cache)
    right = load(bundle, "cpu").logits_of(copy.batches(64)).argmax(axis=1) == copy.labels
    seen, unseen = found.families["seen"], found.families["unseen"]
    assert seen.accuracy.value == pytest.approx(right.mean())
    assert set(seen.accuracies) == set(CORRUPTIONS)
    assert set(unseen.accuracies) == set(UNSEEN.kinds)
    low, high = wilson(int(right.sum()), len(right))
    assert seen.accuracy.interval[1] - seen.accuracy.interval[0] >= high - low, "copies are no new images"


def test_each_white_level_has_a_corrupted_copy_of_its_own(
    manifest: Manifest, weights: bytes, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = np.random.default_rng(0)
    for number in range(12):
        folder = tmp_path / "deep" / manifest.classes[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        values = generator.integers(0, 4096, (32, 32), dtype=np.uint16)
        Image.fromarray(values).save(folder / f"{number}.png")
    brightness: list[float] = []

    def altered(part: Part, *arguments: object, **options: object) -> CorruptedCopy:
        brightness.append(float(part.batch(np.arange(len(part))).mean()))
        return corrupted_copy(part, cache)

    monkeypatch.setattr("hpo.experiments.benchmark.corrupted_copy", altered)
    benchmark = Benchmark(tmp_path / "deep", SPLIT, cache, "cpu")
    for level in (4095, 65535, 4095):
        data = manifest.data.model_copy(update={"white_level": level})
        folder = bundled(tmp_path / f"b{len(brightness)}-{level}", manifest.model_copy(update={"data": data}), weights)
        benchmark.measure_robustness(load(folder, "cpu"))
    bright, dark = brightness
    assert bright == pytest.approx(16 * dark, rel=0.2)


def test_a_test_access_is_recorded_and_reused_by_later_comparisons(
    benchmark: Benchmark, bundle: Path, dataset: Dataset
) -> None:
    first, second = (benchmark.measure(bundle) for _ in range(2))
    (one,) = read_bundle(bundle).metrics["test_openings"]
    assert (first.openings, second.openings) == (1, 1)
    assert first.test == second.test is not None
    assert (one["command"], one["n"], one["data"]) == ("compare", dataset.test_count, dataset.fingerprint)
    assert (one["test"], one["model"]) == (ImageDigests.of(dataset).test_digest, read_bundle(bundle).model_digest)
    assert first.accesses == AccessCounts(count=1, models=1)
    assert first.test is not None
    assert one["accuracy"] == first.test.value


def look_of(bundle: Path, dataset: Dataset) -> dict[str, object]:
    """Return a record of a look at the whole test part by an earlier comparison."""
    test, model = ImageDigests.of(dataset).test_digest, read_bundle(bundle).model_digest
    return {**new_opening("compare", dataset.fingerprint, dataset.test_count, test=test, model=model), "accuracy": 1.0}


@pytest.mark.parametrize(
    "changes", [{"accuracy": None}, {"command": "evaluate"}, {"test": "f" * 32}, {"n": 1}, {"model": "f" * 64}]
)
def test_a_test_access_of_another_kind_or_without_a_result_is_not_reused(
    benchmark: Benchmark, bundle: Path, dataset: Dataset, changes: dict[str, object]
) -> None:
    record_opening(bundle, {**look_of(bundle, dataset), **changes})
    found = benchmark.measure(bundle)
    assert found.test is not None
    assert found.test.value < 1.0, "measured"
    assert len(read_bundle(bundle).metrics["test_openings"]) == 2


def test_a_retrained_model_does_not_count_the_accesses_of_its_origin(
    benchmark: Benchmark, manifest: Manifest, weights: bytes, dataset: Dataset, tmp_path: Path
) -> None:
    final = bundled(tmp_path / "final", manifest.model_copy(update={"stage": "retrained"}), weights)
    record_opening(final, {**look_of(final, dataset), "model": "f" * 64})
    first, second = (benchmark.measure(final) for _ in range(2))
    assert first.test is not None
    assert first.test.value < 1.0
    assert (first.openings, second.openings, second.test) == (2, 2, first.test)


def test_the_test_part_stays_locked_by_default(benchmark: Benchmark, bundle: Path) -> None:
    found = replace(benchmark, test=False).measure(bundle)
    assert (found.test, found.openings) == (None, 0)
    assert read_bundle(bundle).metrics["test_openings"] == []


def test_a_model_that_trained_on_the_validation_part_is_not_measured_on_it(
    benchmark: Benchmark, manifest: Manifest, weights: bytes, tmp_path: Path
) -> None:
    retrained = bundled(tmp_path / "final", manifest.model_copy(update={"stage": "retrained"}), weights)
    found = benchmark.measure(retrained)
    assert (found.validation, found.families, found.macro_f1) == (None, {}, None)
    assert found.test is not None


def test_other_images_and_another_split_are_refused(benchmark: Benchmark, manifest: Manifest) -> None:
    benchmark.check("best", manifest)
    other = manifest.model_copy(update={"data": manifest.data.model_copy(update={"fingerprint": "f" * 64})})
    with pytest.raises(DataError, match=r"best was made with other images than .*\(fingerprint ffffffffffff"):
        benchmark.check("best", other)
    resplit = replace(benchmark, split=replace(benchmark.split, seed=1), _datasets={})
    with pytest.raises(DataError, match=r"«stratified 60/20/20, seed 0», but here it is .*seed 1».*--seed"):
        resplit.check("best", manifest)


def test_a_row_pools_seeds(benchmark: Benchmark, bundle: Path, manifest: Manifest, tmp_path: Path) -> None:
    zeros = {name: tensor * 0 for name, tensor in build_model(CONFIG, 8).model.state_dict().items()}
    import safetensors.torch

    other = bundled(tmp_path / "other", manifest, safetensors.torch.save(zeros))
    costs = tuple(Cost(3, seconds, memory, "cpu", None) for seconds, memory in ((1.0, 10), (3.0, 30)))
    row = measure_row(ComparedModel("both", "preset", (bundle, other), costs, ("a note",)), benchmark)
    alone = [replace(benchmark, test=False).measure(folder).validation for folder in (bundle, other)]
    assert row.validation is not None
    assert row.validation.value == pytest.approx(np.mean([score.value for score in alone if score]))
    assert row.validation.spread is not None
    assert (row.seeds, row.seconds_per_epoch, row.peak_memory, row.notes) == (2, 2.0, 30, ("a note",))
    assert set(row.images_per_second) == set(BATCHES)
    assert all(speed > 0 for speed in row.images_per_second.values())
    total, trainable = count_parameters(build_model(CONFIG, 8).model)
    assert (row.parameters, row.trainable_parameters) == (total, trainable)
    assert 0 < trainable < total
    assert (row.trained_on, row.memory_shared) == (("cpu",), False)
    here = Cost(3, 1.0, 10, device_name(torch.device("cpu")), None, shared=True)
    again = measure_row(ComparedModel("here", "trial", (bundle,), (here,)), replace(benchmark, test=False))
    assert (again.trained_on, again.memory_shared) == ((), True)


def test_trainable_parameters_are_those_of_the_phase_that_trains_most(manifest: Manifest) -> None:
    phased = CONFIG.replace(unfreeze_depth=0.0, phases=[{"epochs": 1}, {"epochs": 2, "unfreeze_depth": 1.0}])
    found = trainable_parameters(manifest.model_copy(update={"config": phased}))
    assert found == count_parameters(build_model(CONFIG.replace(unfreeze_depth=1.0), 8).model)[1]
    assert trainable_parameters(manifest.model_copy(update={"stage": "soup"})) is None
