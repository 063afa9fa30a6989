"""Epochs that are measured on the altered part too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch

from hpo.evaluation.altered_part import altered_part
from hpo.evaluation.metrics import combined, scores
from hpo.models.built_model import build_model
from hpo.models.inference import Predictor
from hpo.training import EpochResult, FitData, Runtime, fit
from hpo.training.loader import FeatureValidation
from hpo.training.run import prepare
from search_spaces import TrialConfig
from tests.hpo.training.test_loop_resume import carried, epoch_of, in_pieces

Make = Callable[..., TrialConfig]

SMALL = {"batch_size": 5, "epochs": 2}


@pytest.fixture
def both(data: FitData, tmp_path: Path) -> FitData:
    """Return the data with the altered part: 12 validation images under 2 draws."""
    assert data.val is not None
    return replace(data, altered=altered_part(data.val, tmp_path, train=len(data.train)))


def results_of(config: TrialConfig, data: FitData, **runtime: float) -> list[EpochResult]:
    return list(fit(config, data, Runtime(seed=7, **runtime)))


@pytest.mark.parametrize("depth", [1.0, 0.0], ids=["trained", "frozen"])
def test_altered_figures_stand_beside_the_clean_ones_and_change_no_weight(
    config: Make, data: FitData, both: FitData, depth: float
) -> None:
    settings = config(unfreeze_depth=depth, **SMALL)
    plain = [(dict(result.metrics), result.weights()) for result in fit(settings, data, Runtime(seed=7))]
    robust = [(result, result.weights()) for result in fit(settings, both, Runtime(seed=7, robustness=0.5))]
    assert both.altered is not None
    for (metrics, weights), (result, same) in zip(plain, robust, strict=True):
        assert same == weights
        assert {key: value for key, value in result.metrics.items() if not key.startswith("altered_")} == metrics
        assert result.altered_logits is not None
        found = scores(both.altered.labels, result.altered_logits)
        assert {key: result.metrics[f"altered_{key}"] for key in found} == found


@pytest.mark.parametrize("depth", [1.0, 0.0], ids=["trained", "frozen"])
def test_a_run_in_pieces_equals_a_whole_one(config: Make, both: FitData, depth: float) -> None:
    settings = config(unfreeze_depth=depth, **SMALL)
    extraction = 0 if depth else 3
    whole = [(epoch_of(result), result.altered_logits) for result in fit(settings, both, Runtime(seed=7))]
    for questions in (extraction + 6, extraction + 9):
        pieces, dropped = in_pieces(settings, both, iter([questions, *[1000] * 9]))
        assert pieces == [epoch for epoch, _ in whole]
        assert dropped <= 1


def test_altered_images_of_a_frozen_backbone_pass_it_once(config: Make, both: FitData) -> None:
    run = prepare(config(unfreeze_depth=0.0, validation_augmented=0.5), both, Runtime(), None)
    assert isinstance(run.altered, FeatureValidation)
    assert not isinstance(run.validation, FeatureValidation)


def test_early_stopping_and_the_plateau_go_by_the_combined_value(config: Make, both: FitData) -> None:
    settings = config(epochs=6, patience=1, learning_rate=3e-3, batch_size=5)
    for weight in (0.5, 1.0):
        results = results_of(settings, both, robustness=weight)
        values = [combined(result.metrics, "accuracy", weight) for result in results]
        first_without_gain = next((n for n in range(1, 6) if values[n:] and values[n] <= max(values[:n]) + 1e-4), 5)
        assert len(results) == first_without_gain + 1


def test_a_background_is_masked_in_altered_images_after_they_were_altered(config: Make, both: FitData) -> None:
    settings = config(background="mask", precision="fp32", epochs=1, batch_size=5)
    (result,) = fit(settings, both, Runtime(seed=0))
    built = build_model(settings, 3, initialise=False)
    built.model.load_state_dict(safetensors.torch.load(result.weights()))
    predictor = Predictor(built.model, mean=built.mean, std=built.std, background="mask")
    assert both.altered is not None
    assert result.altered_logits is not None
    assert np.allclose(predictor.logits(both.altered), result.altered_logits, atol=1e-4)


def test_a_resumed_snapshot_needs_no_altered_part_of_its_own(config: Make, both: FitData) -> None:
    """What is measured is no state of the run: a study of an earlier version goes on from its snapshots."""
    settings = config(**SMALL)
    first = next(fit(settings, both, Runtime(seed=7))).snapshot()
    (resumed,) = fit(settings, both, Runtime(seed=7), carried(first))
    assert "altered_accuracy" in resumed.metrics
