"""A run that is stopped at any step resumes and equals an uninterrupted one bit for bit."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from hpo.errors import ModelError
from hpo.interruption import TrainingInterrupted
from hpo.training import EpochResult, FitData, Runtime, Snapshot, fit
from search_spaces import Optimiser, Schedule, TrialConfig

Make = Callable[..., TrialConfig]

STEPS = 5
"""Steps of an epoch: 25 images in batches of 5."""
QUESTIONS = STEPS + 2
"""Calls of `should_stop` in an epoch: one before each step, and one before each of the two validation batches."""
SMALL = {"batch_size": 5, "epochs": 2}

FEATURES: list[dict[str, Any]] = [
    {
        "ema": 0.9, "dropout": 0.3, "mixup": 0.4, "cutmix": 1.0,
        "augmentation": "flips", "augmentation_strength": 1.0,
    },
    {"ema": 0.99, "drop_path": 0.2, "balanced_sampling": True, "gradient_clip": 1.0},
    {"unfreeze_depth": 0.0, "dropout": 0.5},
    {"layer_decay": 0.7, "l1": 1e-4, "loss": "focal", "head_layers": 1, "warmup": 0.3},
    {
        "unfreeze_depth": 0.0, "dropout": 0.2, "warmup": 0.2, "label_smoothing": 0.1,
        "augmentation": "colour", "augmentation_strength": 0.5,
    },
    {"precision": "bf16", "class_weights": "inverse", "unfreeze_depth": 0.5, "drop_path": 0.1, "mixup": 0.2},
    {"warmup": 0.3, "restarts": 2, "ema": 0.9, "dropout": 0.1},
    {"oversample_to": 12, "class_weights": "inverse", "augmentation_strength": 1.0},
    {"oversample_to": 12, "unfreeze_depth": 0.0, "loss": "balanced-softmax"},
    {"unfreeze_from": "stem", "unfreeze_depth": 0.4, "unfreezing": "gradual", "layer_decay": 0.8, "ema": 0.9},
]  # fmt: skip

PLATEAU = {"epochs": 2, "unfreeze_depth": 0.0, "schedule": "plateau", "learning_rate": 1e-3, "weight_decay": 0.0}
RESTARTS = {"epochs": 2, "schedule": "cosine-restarts", "learning_rate": 1e-4, "backbone_lr_ratio": 0.5, "warmup": 0.2}

PHASED: dict[str, dict[str, Any]] = {
    "plateau then restarts": {"phases": [PLATEAU, RESTARTS], "ema": 0.9, "dropout": 0.2, "epochs": 4},
    "gradual": {"unfreezing": "gradual", "epochs": 4, "optimiser": "nadam", "drop_path": 0.2, "schedule": "plateau"},
    "gradual after the head": {
        "phases": [PLATEAU, {**RESTARTS, "unfreezing": "gradual", "layer_decay": 0.7, "epochs": 3}],
        "epochs": 4, "ema": 0.9, "optimiser": "sgd",
    },
    "other optimisers": {
        "phases": [{"epochs": 1, "optimiser": kind} for kind in ("lion", "rmsprop", "rmsprop")],
        "epochs": 3, "learning_rate": 1e-4, "mixup": 0.3, "gradient_clip": 1.0,
    },
    "up and down": {
        "phases": [{"epochs": 1, "unfreeze_depth": depth} for depth in (1.0, 0.0, 0.5)],
        "epochs": 3, "precision": "bf16", "loss": "balanced-softmax", "l2": 1e-3,
    },
    "head alone": {
        "phases": [PLATEAU, {**RESTARTS, "unfreeze_depth": 0.0}], "epochs": 3, "dropout": 0.3, "ema": 0.9,
    },
    "patience": {
        "phases": [PLATEAU, {**RESTARTS, "epochs": 6, "learning_rate": 1e-9}], "epochs": 6, "unfreeze_depth": 0.0,
        "patience": 2, "ema": 0.5, "augmentation": "flips",
    },
    "consistency": {
        "phases": [PLATEAU, RESTARTS], "epochs": 3, "augmix": 0.5, "augmix_consistency": 12.0,
        "augmentation": "flips", "augmentation_strength": 1.0, "validation_augmented": 0.5,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Epoch:
    """All results of an epoch except its duration."""

    last: bool
    numbers: tuple[float, float, dict[str, float]]
    logits: bytes
    weights: bytes
    resume: bytes
    state: dict[str, Any]


def epoch_of(result: EpochResult) -> Epoch:
    assert result.logits is not None
    snapshot = carried(result.snapshot())
    return Epoch(
        result.last,
        (result.train_loss, result.learning_rate, dict(result.metrics)),
        result.logits.tobytes(),
        result.weights(),
        snapshot.resume,
        dict(snapshot.state),
    )


def carried(snapshot: Snapshot) -> Snapshot:
    """Return the snapshot as it is read back from files."""
    return Snapshot(bytes(snapshot.resume), json.loads(json.dumps(dict(snapshot.state))))


def after(questions: int) -> Callable[[], bool]:
    """Return a `should_stop` that is False for a number of calls and True after that."""
    asked = itertools.count()
    return lambda: next(asked) >= questions


def whole(config: TrialConfig, data: FitData) -> list[Epoch]:
    return [epoch_of(result) for result in fit(config, data, Runtime(seed=7))]


def in_pieces(
    config: TrialConfig, data: FitData, patience: Iterator[int], kept: Snapshot | None = None
) -> tuple[list[Epoch], int]:
    """Return the epochs of a run that is stopped after the given numbers of calls, and how often it was stopped."""
    epochs: list[Epoch] = []
    dropped = 0
    while True:
        runtime = Runtime(seed=7, threads=2, should_stop=after(next(patience)))
        try:
            for result in fit(config, data, runtime, kept):
                epochs.append(epoch_of(result))
                kept = carried(result.snapshot())
        except TrainingInterrupted as stop:
            kept = carried(stop.snapshot) if stop.snapshot else kept
            dropped += 1
        else:
            return epochs, dropped


def interrupted(config: TrialConfig, data: FitData, resume: Snapshot | None = None, **runtime: Any) -> Snapshot | None:
    """Return the snapshot of an interruption."""
    with pytest.raises(TrainingInterrupted) as stop:
        list(fit(config, data, Runtime(**runtime), resume))
    return stop.value.snapshot


@pytest.mark.parametrize(
    ("number", "optimiser", "schedule"),
    [(number, *pair) for number, pair in enumerate(itertools.product(get_args(Optimiser), get_args(Schedule)))],
)
def test_a_run_in_pieces_equals_a_whole_one_bit_for_bit(
    config: Make, data: FitData, number: int, optimiser: str, schedule: str
) -> None:
    features = FEATURES[number % len(FEATURES)]
    rate = 1e-4 if optimiser == "lion" else 1e-3
    settings = config(optimiser=optimiser, schedule=schedule, learning_rate=rate, **SMALL, **features)
    generator = np.random.default_rng(number)
    pieces, dropped = in_pieces(settings, data, (int(generator.integers(1, 10)) for _ in itertools.count()))
    assert pieces == whole(settings, data)
    assert dropped >= 1


@pytest.mark.parametrize(
    ("features", "extraction"),
    [(FEATURES[0], 0), (FEATURES[2], 3)],
    ids=["trained", "frozen"],  # the features of 25 images are extracted in three batches
)
def test_an_epoch_resumes_at_the_step_where_it_was_stopped(
    config: Make, data: FitData, features: dict[str, Any], extraction: int
) -> None:
    settings = config(**SMALL, **features)
    first, last = whole(settings, data)
    begun = Snapshot(first.resume, first.state)
    for questions in range(extraction + QUESTIONS):
        patience = itertools.chain([questions], itertools.repeat(1000))
        assert in_pieces(settings, data, patience, begun) == ([last], 1)


@pytest.mark.parametrize("choices", PHASED.values(), ids=PHASED)
def test_phases_in_pieces_equal_whole_ones_bit_for_bit(config: Make, data: FitData, choices: dict[str, Any]) -> None:
    settings = config(batch_size=5, **choices)
    expected = whole(settings, data)
    generator = np.random.default_rng(len(choices))
    pieces, dropped = in_pieces(settings, data, (int(generator.integers(1, 10)) for _ in itertools.count()))
    assert pieces == expected
    assert dropped >= len(expected) - 1
    assert [epoch.last for epoch in expected] == [False] * (len(expected) - 1) + [True]


@pytest.mark.parametrize("name", ["plateau then restarts", "gradual", "gradual after the head", "consistency"])
def test_phases_may_be_stopped_after_every_single_step(config: Make, data: FitData, name: str) -> None:
    """The stops include those before the first step of an epoch, and so between two phases."""
    settings = config(batch_size=5, **{**PHASED[name], "epochs": 3})
    one_step_each = itertools.cycle([1] * STEPS + [QUESTIONS - STEPS])
    assert in_pieces(settings, data, one_step_each) == (whole(settings, data), 3 * (STEPS + 1) - 1)


@pytest.mark.parametrize("questions", [None, 3])
def test_a_run_ended_by_early_stopping_stays_ended(config: Make, data: FitData, questions: int | None) -> None:
    settings = config(batch_size=5, **PHASED["patience"])
    results = whole(settings, data)
    assert len(results) < settings.epochs
    end = Snapshot(results[-1].resume, results[-1].state)
    runtime = Runtime(seed=7) if questions is None else Runtime(seed=7, should_stop=after(questions))
    assert list(fit(settings, data, runtime, end)) == []


def test_a_resumed_plateau_schedule_halves_the_rate_in_the_same_epoch(config: Make, data: FitData) -> None:
    settings = config(schedule="plateau", learning_rate=1e-9, **{**SMALL, "epochs": 4})
    expected = whole(settings, data)
    pieces, _ = in_pieces(settings, data, itertools.repeat(QUESTIONS - 1))
    assert pieces == expected
    assert expected[-1].numbers[1] < expected[0].numbers[1]


def test_a_stop_takes_effect_before_the_next_step(config: Make, data: FitData) -> None:
    calls: list[float] = []
    snapshot = interrupted(config(**SMALL), data, on_step=calls.append, should_stop=lambda: len(calls) >= STEPS + 2)
    assert calls == [0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4]
    assert snapshot is not None
    assert (snapshot.state["position"]["epoch"], snapshot.state["position"]["steps"]) == (1, 2)


def test_finished_steps_are_not_repeated(config: Make, data: FitData) -> None:
    settings = config(**{**SMALL, "epochs": 1})
    calls: list[float] = []
    for questions in (3, STEPS + 1):
        snapshot = interrupted(settings, data, should_stop=after(questions))
        list(fit(settings, data, Runtime(on_step=calls.append), snapshot))
    assert calls == [0.8, 1.0]


def test_without_a_step_there_is_no_new_snapshot(config: Make, data: FitData) -> None:
    settings = config(**SMALL)
    assert interrupted(settings, data, should_stop=after(0)) is None
    assert interrupted(settings, data, should_stop=after(QUESTIONS)) is None
    within = interrupted(settings, data, should_stop=after(2))
    assert interrupted(settings, data, within, should_stop=after(0)) is None
    validating = interrupted(settings, data, should_stop=after(STEPS + 1))
    assert interrupted(settings, data, validating, should_stop=after(1)) is None


@pytest.mark.parametrize("questions", [0, 2])
def test_the_extraction_of_features_can_be_stopped(config: Make, data: FitData, questions: int) -> None:
    assert interrupted(config(unfreeze_depth=0.0, **SMALL), data, should_stop=after(questions)) is None


def test_the_measurement_of_the_format_can_be_stopped_and_is_not_stored(
    config: Make, data: FitData, tmp_path: Path
) -> None:
    assert interrupted(config(**SMALL), data, cache=tmp_path, should_stop=after(4)) is None
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("questions", [1, STEPS + 1], ids=["training", "validation"])
@pytest.mark.parametrize("depth", [1.0, 0.0], ids=["trained", "frozen"])
def test_an_interrupted_run_leaves_no_thread(config: Make, data: FitData, questions: int, depth: float) -> None:
    settings = config(augmentation="flips", augmentation_strength=1.0, unfreeze_depth=depth, **SMALL)
    with pytest.raises(TrainingInterrupted) as stop:
        list(fit(settings, data, Runtime(threads=3, should_stop=after(questions))))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("batches")]
    assert stop.value.__traceback__ is not None  # which would keep alive what was not closed


def test_the_time_of_an_epoch_is_that_of_all_its_pieces(config: Make, data: FitData) -> None:
    settings = config(**{**SMALL, "epochs": 1})
    snapshot = interrupted(settings, data, should_stop=after(STEPS + 1))
    assert snapshot is not None
    position = snapshot.state["position"]
    assert position["seconds"]["training"] > 0
    assert position["seconds"]["validation"] > 0
    longer = {**position, "seconds": {"training": 100.0, "validation": 50.0}}
    (result,) = fit(settings, data, Runtime(), replace(snapshot, state={**snapshot.state, "position": longer}))
    assert 150 < result.seconds < 200
    assert result.images_per_second == pytest.approx(len(data.train) / 100, rel=0.01)


def test_a_snapshot_of_another_layout_is_refused(config: Make, data: FitData) -> None:
    first = next(fit(config(), data, Runtime())).snapshot()
    with pytest.raises(ModelError, match="of layout 1, but must be of 3"):
        list(fit(config(), data, Runtime(), replace(first, state={**first.state, "version": 1})))
