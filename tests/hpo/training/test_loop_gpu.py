"""The training loop on a GPU: resident images and lower precision."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

from hpo.interruption import TrainingInterrupted
from hpo.models.feeds import ResidentFeed, plain_feed
from hpo.training import EpochResult, FitData, Runtime, fit
from search_spaces import Optimiser, TrialConfig

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")]

Make = Callable[..., TrialConfig]


def train(config: TrialConfig, data: FitData, **runtime: Any) -> list[EpochResult]:
    return list(fit(config, data, Runtime(device="cuda", **runtime)))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16", "auto"])
def test_training_works_in_every_precision(config: Make, data: FitData, precision: str, tmp_path: Path) -> None:
    results = train(config(precision=precision, learning_rate=3e-3, epochs=8), data, cache=tmp_path)
    assert results[-1].metrics["accuracy"] > 0.9
    assert results[-1].facts["precision"] == precision or precision == "auto"
    assert 0 < results[-1].peak_memory < 2**30


def test_streaming_and_threads_change_nothing(config: Make, data: FitData) -> None:
    settings = config(augmentation="flips", augmentation_strength=1.0, mixup=0.4, ema=0.9, precision="fp32")
    one, four = (train(settings, data, threads=threads)[-1] for threads in (1, 4))
    np.testing.assert_array_equal(one.logits, four.logits)


def test_a_small_set_is_resident(data: FitData) -> None:
    assert isinstance(plain_feed(data.train, torch.device("cuda")), ResidentFeed)


def test_an_epoch_goes_on_from_the_step_where_it_was_stopped(config: Make, data: FitData) -> None:
    settings = config(precision="fp32", ema=0.9, dropout=0.5, epochs=1)
    asked = itertools.count()
    with pytest.raises(TrainingInterrupted) as stop:
        train(settings, data, should_stop=lambda: next(asked) >= 2)
    (resumed,) = fit(settings, data, Runtime(device="cuda"), stop.value.snapshot)
    (whole,) = train(settings, data)
    assert resumed.train_loss == pytest.approx(whole.train_loss, rel=1e-5)
    np.testing.assert_allclose(resumed.logits, whole.logits, rtol=1e-4, atol=1e-4)


def test_a_resumed_run_goes_on_where_it_stopped(config: Make, data: FitData) -> None:
    settings = config(precision="fp16", ema=0.9)
    whole = [(result, result.snapshot()) for result in fit(settings, data, Runtime(device="cuda"))]
    resumed = list(fit(settings, data, Runtime(device="cuda"), whole[0][1]))
    assert resumed[-1].logits is not None
    np.testing.assert_allclose(resumed[-1].logits, whole[-1][0].logits, rtol=1e-2, atol=1e-2)


PHASES = [
    {"epochs": 1, "unfreeze_depth": 0.0},
    {"epochs": 3, "unfreezing": "gradual", "schedule": "cosine-restarts", "learning_rate": 3e-4},
]


@pytest.mark.parametrize("optimiser", get_args(Optimiser))
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_phases_go_on_with_every_optimiser(config: Make, data: FitData, optimiser: str, precision: str) -> None:
    settings = config(
        epochs=4,
        phases=PHASES,
        optimiser=optimiser,
        learning_rate=1e-4,
        precision=precision,
        ema=0.9,
        gradient_clip=1.0,
    )
    whole = [(result, result.snapshot()) for result in fit(settings, data, Runtime(device="cuda"))]
    resumed = list(fit(settings, data, Runtime(device="cuda"), whole[1][1]))
    assert resumed[-1].last
    assert resumed[-1].logits is not None
    np.testing.assert_allclose(resumed[-1].logits, whole[-1][0].logits, rtol=3e-2, atol=3e-2)


def test_training_on_views_equals_that_on_a_cpu(config: Make, data: FitData) -> None:
    settings = config(
        precision="fp32", epochs=1, optimiser="sgd", augmix=0.3, augmix_consistency=12.0, l1=1e-3, l2=1e-3,
        loss="balanced-softmax",
    )  # fmt: skip
    (there,), (here,) = train(settings, data), fit(settings, data, Runtime())
    assert there.train_loss == pytest.approx(here.train_loss, rel=1e-3)
