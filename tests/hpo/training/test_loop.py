"""fit(): learning, reproducibility, and ends with a reason."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hpo.errors import DataError, TrialEnded
from hpo.models import Predictor, build_model
from hpo.models.classifier import blocks
from hpo.training import EpochResult, FitData, Runtime, Snapshot, fit
from hpo.training.stages import plan_stages
from hpo.training.state import pack, unpack
from search_spaces import TrialConfig

Make = Callable[..., TrialConfig]

LEARNING = {"learning_rate": 3e-3, "epochs": 4}


def train(config: TrialConfig, data: FitData, resume: Snapshot | None = None, **runtime: Any) -> list[EpochResult]:
    return list(fit(config, data, Runtime(**runtime), resume))


def test_training_reaches_a_high_accuracy(config: Make, data: FitData) -> None:
    results = train(config(**LEARNING), data)
    assert [result.epoch for result in results] == [1, 2, 3, 4]
    assert results[-1].train_loss < 0.5 * results[0].train_loss
    assert results[-1].metrics["accuracy"] > 0.9
    assert set(results[0].metrics) == {"accuracy", "balanced_accuracy", "macro_f1", "loss"}


def test_a_result_holds_its_cost_and_device(config: Make, data: FitData) -> None:
    settings = config(epochs=1, unfreeze_depth=0.5)
    (result,) = train(settings, data)
    assert data.val is not None
    assert result.logits is not None
    assert result.logits.shape == (len(data.val), data.classes)
    assert result.logits.dtype == np.float32
    assert result.seconds > 0
    assert result.images_per_second > len(data.train) / result.seconds
    assert result.peak_memory > 10 * 2**20
    assert 0 < result.facts["trainable_parameters"] < result.facts["parameters"]
    assert result.facts["precision"] == "fp32"
    json.dumps(dict(result.facts))


def test_the_weights_reproduce_the_logits_of_the_result(config: Make, data: FitData) -> None:
    settings = config(ema=0.9, epochs=2)
    *_, last = ((result, result.weights()) for result in fit(settings, data, Runtime()))
    result, weights = last
    built = build_model(settings, data.classes, initialise=False)
    built.model.load_state_dict(unpack(weights))
    assert data.val is not None
    logits = Predictor(built.model, mean=built.mean, std=built.std).logits(data.val)
    np.testing.assert_allclose(logits, result.logits, atol=1e-5)


def test_without_a_validation_part_there_are_no_metrics(config: Make, data: FitData) -> None:
    alone = dataclasses.replace(data, val=None)
    results = train(config(schedule="plateau", epochs=2), alone)
    assert [result.metrics for result in results] == [{}, {}]
    assert results[0].logits is None


RICH = {"augmentation": "flips", "augmentation_strength": 1.0, "mixup": 0.4, "cutmix": 1.0, "dropout": 0.3}


@pytest.mark.parametrize("choices", [{}, {"ema": 0.9, **RICH}], ids=["plain", "rich"])
def test_results_depend_on_the_seed_but_not_on_threads_or_the_caller_s_generators(
    config: Make, data: FitData, choices: dict[str, Any]
) -> None:
    settings = config(epochs=1, **choices)
    torch.manual_seed(1)
    first = train(settings, data, seed=1)
    torch.manual_seed(2)
    second = train(settings, data, seed=1, threads=3)
    other = train(settings, data, seed=2)
    assert np.array_equal(first[0].logits, second[0].logits)
    assert not np.array_equal(first[0].logits, other[0].logits)


def test_global_generators_are_unchanged(config: Make, data: FitData) -> None:
    settings = config(epochs=2, mixup=0.4, dropout=0.2)
    torch.manual_seed(3)
    np.random.seed(3)
    expected = (torch.rand(3).tolist(), np.random.rand(3).tolist())
    torch.manual_seed(3)
    np.random.seed(3)
    run = fit(settings, data, Runtime())
    next(run)
    between = (torch.rand(1).tolist(), np.random.rand(1).tolist())
    next(run)
    after = (torch.rand(2).tolist(), np.random.rand(2).tolist())
    assert (between[0] + after[0], between[1] + after[1]) == expected


def test_the_last_result_is_marked(config: Make, data: FitData) -> None:
    assert [result.last for result in train(config(epochs=3), data)] == [False, False, True]


STILL = {"learning_rate": 1e-9, "unfreeze_depth": 0.0}


def test_early_stopping_ends_a_run_on_a_plateau(config: Make, data: FitData) -> None:
    results = train(config(epochs=9, patience=2, **STILL), data)
    assert [result.last for result in results] == [False, False, True]
    assert results[0].metrics["accuracy"] == results[2].metrics["accuracy"]


def test_a_run_that_improves_is_not_ended(config: Make, data: FitData) -> None:
    alone = dataclasses.replace(data, val=None)
    assert len(train(config(epochs=4, patience=1), alone, scores=[0.1, 0.2, 0.3, 0.4])) == 4


def test_patience_counts_in_the_last_phase_only(config: Make, data: FitData) -> None:
    phases = [{"epochs": 4}, {"epochs": 5}]
    results = train(config(epochs=9, patience=2, phases=phases, **STILL), data)
    assert [result.epoch for result in results if result.last] == [4 + 3]


def test_patience_starts_once_all_blocks_train(config: Make, data: FitData) -> None:
    alone = dataclasses.replace(data, val=None)
    gradual = config(epochs=20, patience=2, unfreezing="gradual", unfreeze_depth=1.0)
    deepest = plan_stages(gradual, len(blocks(build_model(gradual, 2).model.backbone)))[-1]
    results = train(gradual, alone, scores=[0.5] * gradual.epochs)
    assert results[-1].last
    assert results[-1].epoch == deepest.epochs.start + 3 < gradual.epochs


def test_without_a_validation_part_patience_uses_the_known_scores(config: Make, data: FitData) -> None:
    alone = dataclasses.replace(data, val=None)
    results = train(config(epochs=9, patience=2, **STILL), alone, scores=[0.1, 0.2, 0.3, 0.2, 0.1, 0.9])
    assert results[-1].epoch == 5


def test_facts_hold_the_number_of_phases_and_the_largest_trainable_count(config: Make, data: FitData) -> None:
    depths = (0.0, 1.0, 0.5)
    phases = [{"epochs": 1, "unfreeze_depth": depth} for depth in depths]
    facts = [result.facts for result in train(config(epochs=3, phases=phases), data)]
    (deepest,) = train(config(epochs=1, unfreeze_depth=1.0), data)
    assert {known["phases"] for known in facts} == {3}
    assert {known["trainable_parameters"] for known in facts} == {deepest.facts["trainable_parameters"]}
    assert deepest.facts["phases"] == 1


def test_each_phase_trains_its_own_blocks(config: Make, data: FitData) -> None:
    phases = [{"epochs": 1, "unfreeze_depth": 0.0}, {"epochs": 1, "unfreeze_depth": 1.0}]
    settings = config(epochs=2, augmentation="flips", augmentation_strength=1.0, phases=phases)
    first, second = (unpack(result.weights()) for result in fit(settings, data, Runtime()))
    moved = {name for name in first if not torch.equal(first[name], second[name])}
    start = build_model(settings, data.classes).model.state_dict()
    assert first.keys() == start.keys()
    assert {name for name in moved if name.startswith("backbone.")} == {
        name for name in first if name.startswith("backbone.")
    }


def test_training_the_head_alone_leaves_the_backbone_unchanged(config: Make, data: FitData) -> None:
    phases = [{"epochs": 1, "unfreeze_depth": 0.0}, {"epochs": 1, "unfreeze_depth": 0.0, "learning_rate": 1e-2}]
    first, second = (unpack(result.weights()) for result in fit(config(epochs=2, phases=phases), data, Runtime()))
    assert all(torch.equal(first[name], second[name]) for name in first if name.startswith("backbone."))
    assert not torch.equal(first["head.1.weight"], second["head.1.weight"])


def test_a_validation_part_may_be_augmented(config: Make, data: FitData) -> None:
    choices = {"epochs": 1, "augmentation": "flips", "augmentation_strength": 1.0, "unfreeze_depth": 0.0}
    (plain,), (altered,) = (
        train(config(validation_augmented=share, **choices), data) for share in (0.0, 0.5)
    )  # fmt: skip
    assert plain.weights() == altered.weights()
    same = (plain.logits == altered.logits).all(axis=1)
    assert data.val is not None
    assert len(data.val) / 2 <= same.sum() < len(data.val)


def test_training_works_with_augmix_and_consistency(config: Make, data: FitData) -> None:
    choices = {"augmix": 0.3, "augmix_consistency": 1.0, "ema": 0.5}
    results = train(config(**{**LEARNING, "epochs": 6}, **choices), data)
    assert results[-1].metrics["accuracy"] > 0.9


def test_a_diverging_run_ends_with_the_step_in_its_message(config: Make, data: FitData) -> None:
    settings = config(optimiser="sgd", learning_rate=100.0, weight_decay=10.0, epochs=20)
    where = r"loss is not finite: (nan|inf) in epoch \d+, by step \d of 4|logits of epoch \d+ are not finite"
    with pytest.raises(TrialEnded, match=where):
        train(settings, data)


def test_a_collapsed_run_ends(config: Make, data: FitData) -> None:
    """A run that was perfect suddenly predicts one class, as after exploding gradients."""
    settings = config(learning_rate=1e-9)
    first = next(fit(settings, data, Runtime())).snapshot()
    broken = Snapshot(_with_one_answer(first.resume), {**first.state, "guard": {"best": 1.0, "single": 0}})
    with pytest.raises(TrialEnded, match=r"collapsed: validation accuracy fell from 1.000 to .* in epoch 2"):
        train(settings, data, broken)


def _with_one_answer(resume: bytes) -> bytes:
    tensors = unpack(resume)
    tensors["model.head.1.weight"].zero_()
    tensors["model.head.1.bias"][:] = torch.tensor([9.0, 0.0, 0.0])
    return pack(tensors)


@pytest.mark.parametrize("what", ["weights", "snapshot"])
def test_a_snapshot_is_refused_after_training_has_continued(config: Make, data: FitData, what: str) -> None:
    run = fit(config(), data, Runtime())
    first = next(run)
    next(run)
    with pytest.raises(RuntimeError, match="state of epoch 1"):
        getattr(first, what)()


def test_images_packed_at_another_size_are_refused(config: Make, data: FitData) -> None:
    with pytest.raises(DataError, match="image_size is 48, but the images are packed at 32"):
        train(config(image_size=48), data)


def test_a_measured_format_is_kept_when_the_run_resumes_elsewhere(config: Make, data: FitData, tmp_path: Path) -> None:
    first = next(fit(config(precision="bf16"), data, Runtime())).snapshot()
    state = {**first.state, "format": {"precision": "bf16", "channels_last": False}}
    result = next(fit(config(precision="bf16"), data, Runtime(cache=tmp_path), Snapshot(first.resume, state)))
    assert result.facts["channels_last"] is False
    assert not any(tmp_path.iterdir())
