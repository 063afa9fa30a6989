from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from hpo.training import EpochResult, FitData, Runtime, fit
from hpo.training import loader as loader_module
from hpo.training.loader import inputs_repeat, validation_repeats
from search_spaces import TrialConfig

Make = Callable[..., TrialConfig]


def last_of(config: TrialConfig, data: FitData) -> EpochResult:
    *_, last = fit(config, data, Runtime(seed=3))
    return last


@pytest.mark.parametrize(
    "choices",
    [
        {"dropout": 0.3, "optimiser": "sgd"},
        {"drop_path": 0.3, "ema": 0.9, "balanced_sampling": True},
        {"precision": "bf16"},
        {"augmentation": "flips", "augmentation_strength": 1.0},
    ],
    ids=str,
)
def test_stored_features_give_the_same_results(
    config: Make, data: FitData, choices: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(unfreeze_depth=0.0, epochs=2, **choices)
    kept = last_of(settings, data)
    monkeypatch.setattr(loader_module, "MOST_FEATURE_BYTES", 0)
    computed = last_of(settings, data)
    np.testing.assert_allclose(kept.logits, computed.logits, rtol=1e-5, atol=1e-6)
    assert kept.train_loss == pytest.approx(computed.train_loss, rel=1e-6)


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        ({}, True),
        ({"augmentation": "flips", "augmentation_strength": 0.0}, True),
        ({"augmentation": "flips", "augmentation_strength": 0.1}, False),
        ({"mixup": 0.1}, False),
        ({"cutmix": 0.1}, False),
        ({"unfreeze_from": "stem"}, True),
        ({"unfreeze_depth": 0.1}, False),
        ({"unfreeze_depth": 0.1, "unfreeze_from": "stem"}, False),
        ({"cutout": 0.1}, False),
        ({"augmix": 0.1, "augmix_consistency": 1.0}, False),
        ({"validation_augmented": 0.5}, True),
        ({"phases": [{"epochs": 1}, {"epochs": 2, "learning_rate": 0.1}]}, True),
        ({"phases": [{"epochs": 1}, {"epochs": 2, "unfreeze_depth": 0.5}]}, False),
        ({"unfreeze_depth": 1.0, "phases": [{"epochs": 3, "unfreeze_depth": 0.0}]}, True),
    ],
)
def test_features_repeat_only_if_images_and_backbone_are_fixed(
    config: Make, choices: dict[str, object], expected: bool
) -> None:
    assert inputs_repeat(config(**{"unfreeze_depth": 0.0, **choices})) is expected


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        ({}, True),
        ({"augmentation": "flips"}, True),
        ({"augmentation": "flips", "validation_augmented": 0.5}, False),
        ({"validation_augmented": 0.5}, False),
        ({"phases": [{"epochs": 1}, {"epochs": 2, "unfreeze_depth": 0.5}]}, False),
    ],
)
def test_validation_features_repeat_if_the_images_are_unchanged(
    config: Make, choices: dict[str, object], expected: bool
) -> None:
    assert validation_repeats(config(**{"unfreeze_depth": 0.0, **choices})) is expected
