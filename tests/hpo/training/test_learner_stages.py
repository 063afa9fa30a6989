"""Learner across stages: other blocks train, and the optimiser keeps its state of the common parameters."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from hpo.models import build_model
from hpo.models.classifier import train_blocks
from hpo.models.compute_format import ComputeFormat
from hpo.training.learner import Learner
from hpo.training.loss import build_loss
from hpo.training.optimisation import build_optimiser, carry_over
from search_spaces import Optimiser, TrialConfig

Make = Callable[..., TrialConfig]
PER_EPOCH = 2
LABELS = np.arange(6) % 3
HEAD = "head.1.weight"

HEAD_THEN_ALL = {
    "epochs": 2,
    "phases": [
        {"epochs": 1, "unfreeze_depth": 0.0, "learning_rate": 1e-3},
        {"epochs": 1, "unfreeze_depth": 1.0, "learning_rate": 1e-4, "weight_decay": 0.1},
    ],
}


class Course:
    """A learner that trains epoch by epoch."""

    def __init__(self, config: TrialConfig) -> None:
        torch.manual_seed(0)
        self.model = build_model(config, 3).model
        self.learner = Learner(
            config, self.model, build_loss(config, LABELS, 3), ComputeFormat(), per_epoch=PER_EPOCH
        )  # fmt: skip

    def epoch(self, number: int, steps: int = PER_EPOCH) -> list[float]:
        """Train an epoch; return the learning rate of the head in each step."""
        self.learner.begin_epoch(number)
        self.learner.enter_training_mode()
        rates = []
        for step in range(steps):
            images = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(10 * number + step))
            self.learner.learn(images, torch.from_numpy(LABELS))
            rates.append(self.learner.learning_rate)
        self.learner.record_score(0.0)
        return rates

    @property
    def trained(self) -> set[str]:
        return {name for name, parameter in self.model.named_parameters() if parameter.requires_grad}

    def state(self, name: str) -> dict[str, Tensor]:
        """Return the optimiser's state of a parameter."""
        optimiser = self.learner._optimisation._optimiser
        return dict(optimiser.state.get(self.model.get_parameter(name), {}))


def copies(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in state.items()}


def assert_equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    assert [key for key in first if not torch.equal(first[key], second[key])] == []


def test_moments_of_the_head_continue_and_new_blocks_begin_without_any(config: Make) -> None:
    course = Course(config(optimiser="adamw", **HEAD_THEN_ALL))
    course.epoch(0)
    assert {name.partition(".")[0] for name in course.trained} == {"head"}
    known = copies(course.state(HEAD))
    assert known["step"] == PER_EPOCH
    assert float(known["exp_avg"].abs().sum()) > 0
    course.learner.begin_epoch(1)
    assert_equal(course.state(HEAD), known)
    assert course.state("backbone.conv1.0.weight") == {}
    course.epoch(1)
    assert course.state(HEAD)["step"] == 2 * PER_EPOCH
    assert course.state("backbone.conv1.0.weight")["step"] == PER_EPOCH


def test_the_first_step_of_a_phase_is_that_of_adamw_with_the_old_moments(config: Make) -> None:
    """Compare with Kingma and Ba's update, with the moments of the phase before and the rate and decay of this one."""
    course = Course(config(optimiser="adamw", schedule="constant", **HEAD_THEN_ALL))
    course.epoch(0)
    course.learner.begin_epoch(1)
    course.learner.enter_training_mode()
    before, weight = copies(course.state(HEAD)), course.model.get_parameter(HEAD).detach().clone()
    images = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    course.learner.learn(images, torch.from_numpy(LABELS))
    gradient = course.model.get_parameter(HEAD).grad
    first = 0.9 * before["exp_avg"] + 0.1 * gradient
    second = 0.999 * before["exp_avg_sq"] + 0.001 * gradient**2
    steps = PER_EPOCH + 1
    change = (first / (1 - 0.9**steps)) / ((second / (1 - 0.999**steps)).sqrt() + 1e-8)
    expected = weight * (1 - 1e-4 * 0.1) - 1e-4 * change
    torch.testing.assert_close(course.model.get_parameter(HEAD).detach(), expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("optimiser", get_args(Optimiser))
def test_every_optimiser_carries_its_state_over(config: Make, optimiser: str) -> None:
    course = Course(config(optimiser=optimiser, **HEAD_THEN_ALL))
    course.epoch(0)
    known = copies(course.state(HEAD))
    course.learner.begin_epoch(1)
    assert known
    assert_equal(course.state(HEAD), known)


@pytest.mark.parametrize("optimiser", get_args(Optimiser))
def test_newly_unfrozen_parameters_step_as_in_a_new_run(config: Make, optimiser: str) -> None:
    settings = config(optimiser=optimiser, schedule="constant", **HEAD_THEN_ALL)
    course = Course(settings)
    course.epoch(0)
    anew = copy.deepcopy(course.model)
    course.epoch(1, steps=1)
    train_blocks(anew, 5)
    fresh = build_optimiser(settings.phase_configs()[1], anew)
    for parameter, trained in zip(anew.parameters(), course.model.parameters(), strict=True):
        parameter.grad = trained.grad
    fresh.step()
    for name, parameter in anew.backbone.named_parameters():
        torch.testing.assert_close(course.model.backbone.get_parameter(name), parameter, rtol=1e-6, atol=1e-9)


def test_another_optimiser_begins_without_state(config: Make) -> None:
    phases = [{"epochs": 1, "optimiser": "adam"}, {"epochs": 1, "optimiser": "adamw"}]
    course = Course(config(epochs=2, phases=phases))
    course.epoch(0)
    course.learner.begin_epoch(1)
    assert course.state(HEAD) == {}


def test_parameters_frozen_in_between_begin_without_state(config: Make) -> None:
    phases = [{"epochs": 1, "unfreeze_depth": depth} for depth in (1.0, 0.0, 1.0)]
    course = Course(config(epochs=3, phases=phases))
    course.epoch(0)
    course.epoch(1)
    assert course.model.get_parameter("backbone.conv1.0.weight").grad is None
    course.learner.begin_epoch(2)
    assert course.state("backbone.conv1.0.weight") == {}
    assert course.state(HEAD)["step"] == 2 * PER_EPOCH


def test_states_are_carried_over_for_shared_parameters_only(config: Make) -> None:
    deep, shallow = (build_model(config(unfreeze_depth=depth), 3).model for depth in (1.0, 0.0))
    first, second = build_optimiser(config(), deep), build_optimiser(config(), shallow)
    deep(torch.randn(2, 3, 32, 32)).sum().backward()
    first.step()
    carry_over(first, second)
    assert len(second.state) == 0


def test_each_phase_has_its_own_schedule(config: Make) -> None:
    phases: list[dict[str, Any]] = [
        {"epochs": 2, "learning_rate": 1e-2, "schedule": "constant"},
        {"epochs": 2, "learning_rate": 1e-3, "schedule": "cosine-restarts", "restarts": 1, "warmup": 0.0},
    ]
    course = Course(config(epochs=4, phases=phases))
    rates = [rate for epoch in range(4) for rate in course.epoch(epoch)]
    high, low = 1e-3 * (1 + 0.5**0.5) / 2, 1e-3 * (1 - 0.5**0.5) / 2
    assert rates == pytest.approx([1e-2] * 4 + [high, low, high, low])


def test_a_gradual_phase_keeps_its_schedule(config: Make) -> None:
    """The rates equal those of a phase whose blocks all train from its start: cosine, and after a plateau."""
    for schedule in ("cosine", "plateau"):
        settings = config(epochs=6, schedule=schedule, optimiser="sgd")
        at_once, gradual = Course(settings), Course(settings.replace(unfreezing="gradual"))
        expected = [at_once.epoch(epoch) for epoch in range(6)]
        assert [gradual.epoch(epoch) for epoch in range(6)] == expected
        assert expected[-1] < expected[0]


def test_gradual_unfreezing_adds_one_block_after_another(config: Make) -> None:
    course = Course(config(epochs=6, unfreezing="gradual"))
    seen = []
    for epoch in range(6):
        before = {name: value.clone() for name, value in course.model.named_parameters()}
        course.epoch(epoch)
        moved = {name for name, value in course.model.named_parameters() if not torch.equal(value, before[name])}
        assert moved == course.trained
        seen.append(moved)
    assert all(fewer < more for fewer, more in pairwise(seen))
    assert seen[-1] == {name for name, _ in course.model.named_parameters()}


def test_the_moving_average_continues_over_phases(config: Make) -> None:
    course = Course(config(ema=0.5, **HEAD_THEN_ALL))
    course.epoch(0)
    average = course.learner.evaluated.get_parameter(HEAD).detach().clone()
    weight = course.model.get_parameter(HEAD).detach().clone()
    assert not torch.equal(average, weight)
    course.learner.begin_epoch(1)
    assert torch.equal(course.learner.evaluated.get_parameter(HEAD), average)


@pytest.mark.parametrize("done", [1, 2, 3])
def test_a_learner_resumes_from_any_stage(config: Make, done: int) -> None:
    settings = config(epochs=5, unfreezing="gradual", ema=0.9, schedule="plateau", optimiser="nadam")
    whole, resumed = Course(settings), Course(settings)
    for epoch in range(done):
        whole.epoch(epoch)
    state = json.loads(json.dumps(whole.learner.to_dict()))
    resumed.learner.restore({name: value.clone() for name, value in whole.learner.tensors().items()}, state)
    assert resumed.trained == whole.trained
    for epoch in range(done, 5):
        assert resumed.epoch(epoch) == whole.epoch(epoch)
    assert_equal(resumed.learner.tensors(), whole.learner.tensors())
    assert resumed.learner.to_dict() == whole.learner.to_dict()
