from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hpo.training.schedule import LearningRateSchedule, PlateauSchedule, build_schedule
from search_spaces import TrialConfig

UPDATES = 40
Make = Callable[..., TrialConfig]


def optimiser() -> torch.optim.Optimizer:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in (0.1, 1.0)]
    return torch.optim.SGD(groups, lr=1.0)


def rates(schedule: LearningRateSchedule, stepped: torch.optim.Optimizer) -> list[float]:
    """Return the rate of the second group at each update."""
    seen = []
    for update in range(UPDATES):
        schedule.before_update(update)
        first, second = (group["lr"] for group in stepped.param_groups)
        assert first == pytest.approx(second / 10)
        seen.append(second)
    return seen


def curve(config: TrialConfig) -> list[float]:
    stepped = optimiser()
    return rates(build_schedule(config, stepped, UPDATES), stepped)


def test_constant_stays_at_the_peak(config: Make) -> None:
    assert curve(config(schedule="constant")) == [1.0] * UPDATES


def test_cosine_is_the_formula_taken_in_the_middle_of_each_step(config: Make) -> None:
    expected = [0.5 * (1 + math.cos(math.pi * (update + 0.5) / UPDATES)) for update in range(UPDATES)]
    assert curve(config(schedule="cosine")) == pytest.approx(expected)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "cosine-restarts", "plateau"])
def test_warm_up_rises_linearly_to_the_peak_without_a_step_at_rate_0(config: Make, schedule: str) -> None:
    seen = curve(config(schedule=schedule, warmup=0.25))
    assert seen[:10] == pytest.approx([(update + 0.5) / 10 for update in range(10)])
    assert max(seen) == pytest.approx(1.0, abs=0.02)
    assert min(seen) > 0


def test_restarts_return_to_the_peak(config: Make) -> None:
    seen = curve(config(schedule="cosine-restarts", restarts=3))
    rises = [update for update in range(1, UPDATES) if seen[update] > seen[update - 1]]
    assert rises == [10, 20, 30]
    assert seen[10] == pytest.approx(seen[0])


@given(st.integers(1, 20), st.integers(1, 400), st.floats(0, 0.9))
def test_the_last_restart_also_ends_at_the_lowest_rate(restarts: int, updates: int, warmup: float) -> None:
    """All cycles have the same length, so the last update is half a step before its end, as without restarts."""
    stepped = optimiser()
    config = TrialConfig(schedule="cosine-restarts", restarts=restarts, warmup=warmup)
    schedule = build_schedule(config, stepped, updates)
    seen = []
    for update in range(updates):
        schedule.before_update(update)
        seen.append(stepped.param_groups[1]["lr"])
    warm = min(round(warmup * updates), updates - 1)
    cycles = min(restarts + 1, updates - warm)
    length = (updates - warm) / cycles
    assert seen[-1] == pytest.approx(0.5 * (1 + math.cos(math.pi * (1 - 0.5 / length))), abs=1e-9)
    rises = sum(later > before for before, later in zip(seen[warm:], seen[warm + 1 :], strict=False))
    assert rises == cycles - 1 or length < 2


def test_plateau_halves_after_two_epochs_without_a_better_score() -> None:
    stepped = optimiser()
    schedule = PlateauSchedule(stepped, 0)
    seen = []
    for score in [0.5, 0.6, 0.6, 0.59, 0.6, 0.7, 0.7, 0.7]:
        schedule.after_epoch(score)
        schedule.before_update(0)
        seen.append(stepped.param_groups[1]["lr"])
    assert seen == [1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25]


def test_plateau_resumes_from_its_state() -> None:
    first, second = optimiser(), optimiser()
    whole, resumed = PlateauSchedule(first, 4), PlateauSchedule(second, 4)
    for score in [0.5, 0.4, 0.4, 0.4]:
        whole.after_epoch(score)
    resumed.restore(whole.to_dict())
    for schedule in (whole, resumed):
        schedule.after_epoch(0.3)
        schedule.before_update(2)
    assert [group["lr"] for group in first.param_groups] == [group["lr"] for group in second.param_groups]
    assert whole.to_dict() == resumed.to_dict()


@pytest.mark.parametrize("schedule", ["constant", "cosine", "cosine-restarts", "plateau"])
def test_a_run_of_one_update_has_a_learning_rate(config: Make, schedule: str) -> None:
    stepped = optimiser()
    build_schedule(config(schedule=schedule, warmup=0.5), stepped, 1).before_update(0)
    assert 0 < stepped.param_groups[1]["lr"] <= 1
