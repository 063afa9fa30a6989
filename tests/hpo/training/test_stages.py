"""The stages of a run, without a network."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo.models.classifier import trainable_blocks
from hpo.training.stages import last_phase, plan_stages, stage_at
from search_spaces import TrialConfig

Make = Callable[..., TrialConfig]

HEAD_ONLY = {"epochs": 2, "unfreeze_depth": 0.0, "schedule": "plateau"}
DEEPER = {"epochs": 4, "unfreeze_depth": 0.5, "schedule": "cosine-restarts", "learning_rate": 1e-5}


def blocks_by_epoch(config: TrialConfig, blocks: int) -> list[int]:
    return [stage.blocks for stage in plan_stages(config, blocks) for _ in stage.epochs]


@pytest.mark.parametrize(("count", "depth", "expected"), [(18, 0.0, 0), (18, 0.001, 1), (18, 0.5, 9), (10, 0.3, 3)])
def test_the_number_of_blocks(count: int, depth: float, expected: int) -> None:
    assert trainable_blocks(count, depth) == expected


def test_without_phases_a_run_is_one_stage(config: Make) -> None:
    settings = config(epochs=5, unfreeze_depth=0.5)
    (stage,) = plan_stages(settings, 10)
    assert (stage.settings, stage.blocks) == (settings, 5)
    assert stage.epochs == stage.phase == last_phase(settings) == range(5)


def test_phases_follow_each_other_each_with_its_own_settings(config: Make) -> None:
    settings = config(epochs=6, phases=[HEAD_ONLY, DEEPER])
    first, second = plan_stages(settings, 10)
    assert (first.blocks, second.blocks) == (0, 5)
    assert (first.epochs, second.epochs) == (range(2), range(2, 6))
    assert (first.settings.schedule, second.settings.schedule) == ("plateau", "cosine-restarts")
    assert second.settings.learning_rate == 1e-5
    assert [stage_at((first, second), epoch) for epoch in range(6)] == [0, 0, 1, 1, 1, 1]
    assert last_phase(settings) == range(2, 6)


def test_phases_that_train_the_same_blocks_stay_apart(config: Make) -> None:
    settings = config(epochs=4, phases=[{"epochs": 2}, {"epochs": 2, "learning_rate": 1e-4}])
    assert [(stage.blocks, stage.epochs) for stage in plan_stages(settings, 3)] == [(3, range(2)), (3, range(2, 4))]


def test_the_deepest_phase_need_not_be_the_last(config: Make) -> None:
    phases = [{"epochs": 1, "unfreeze_depth": depth} for depth in (0.2, 0.7, 0.4)]
    assert config(epochs=3, phases=phases).deepest_phase().unfreeze_depth == 0.7
    assert config(unfreeze_depth=0.3).deepest_phase().unfreeze_depth == 0.3


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [(5, [0, 1, 2, 3, 4]), (10, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]), (3, [1, 3, 4]), (1, [4]), (7, [0, 1, 2, 2, 3, 4, 4])],
)
def test_gradual_unfreezing_begins_with_the_head_and_ends_with_all(
    config: Make, epochs: int, expected: list[int]
) -> None:
    assert blocks_by_epoch(config(epochs=epochs, unfreezing="gradual"), 4) == expected


@pytest.mark.parametrize(
    ("depths", "expected"),
    [
        ((0.0, 1.0), [0, 0, 1, 2, 3, 4]),
        ((0.5, 1.0), [2, 2, 3, 3, 4, 4]),
        ((0.5, 0.5), [2, 2, 2, 2, 2, 2]),
        ((1.0, 0.25), [4, 4, 1, 1, 1, 1]),
    ],
)
def test_a_gradual_phase_continues_from_the_one_before(
    config: Make, depths: tuple[float, float], expected: list[int]
) -> None:
    before, after = depths
    phases: list[dict[str, Any]] = [
        {"epochs": 2, "unfreeze_depth": before},
        {"epochs": 4, "unfreeze_depth": after, "unfreezing": "gradual"},
    ]
    assert blocks_by_epoch(config(epochs=6, phases=phases), 4) == expected


def test_the_stages_of_a_gradual_phase_hold_the_whole_phase(config: Make) -> None:
    phases = [{"epochs": 2, "unfreeze_depth": 0.0}, {"epochs": 4, "unfreezing": "gradual"}]
    _, *steps = plan_stages(config(epochs=6, phases=phases), 2)
    assert [step.epochs for step in steps] == [range(2, 4), range(4, 6)]
    assert {step.phase for step in steps} == {range(2, 6)}


@given(
    epochs=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    depths=st.lists(st.floats(0, 1), min_size=4, max_size=4),
    gradual=st.lists(st.booleans(), min_size=4, max_size=4),
    blocks=st.integers(0, 30),
)
def test_every_epoch_has_one_stage_and_a_phase_ends_at_its_unfreeze_depth(
    epochs: list[int], depths: list[float], gradual: list[bool], blocks: int
) -> None:
    phases = [
        {"epochs": count, "unfreeze_depth": depth, "unfreezing": "gradual" if slowly else "at-once"}
        for count, depth, slowly in zip(epochs, depths, gradual, strict=False)
    ]
    stages = plan_stages(TrialConfig.from_dict({"epochs": sum(epochs), "phases": phases}), blocks)
    assert [epoch for stage in stages for epoch in stage.epochs] == list(range(sum(epochs)))
    for before, after in pairwise(stages):
        same = before.phase == after.phase
        assert after.blocks > before.blocks if same else after.phase.start == before.phase.stop
    ends = {stage.phase.stop: stage for stage in stages}
    for end, stage in ends.items():
        assert stage.epochs.stop == end
        assert stage.blocks == trainable_blocks(blocks, stage.settings.unfreeze_depth)
