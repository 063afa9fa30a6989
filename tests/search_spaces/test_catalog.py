"""The spaces that ship: their points, their ranges, and that optuna's own sampler works in them."""

from __future__ import annotations

import json

import optuna
import pytest
from hypothesis import given, settings

from search_spaces import SearchSpace, TrialConfig, catalog, describe, load_space
from tests.search_spaces.strategies import DrawnTrial, trials

SPACES = {space.name: space for space in catalog()}
NAMES = list(SPACES)


@pytest.fixture(params=NAMES)
def space(request: pytest.FixtureRequest) -> SearchSpace:
    return SPACES[request.param]


def test_what_ships() -> None:
    assert {"quick", "standard", "thorough"} <= set(NAMES)


def test_each_says_in_one_line_what_it_is_and_starts_from_known_good_points(space: SearchSpace) -> None:
    assert 20 <= len(space.summary) <= 100
    assert len(space.summary.splitlines()) == 1
    assert 2 <= len(space.points) <= 4


def test_the_backbone_is_the_users(space: SearchSpace) -> None:
    assert "backbone" not in {*space.fixed, *space.open}
    assert space.with_fixed({"backbone": "mobilenetv2_035"}).open == space.open


def test_a_point_is_a_whole_configuration(space: SearchSpace) -> None:
    for point, params in zip(space.points, space.enqueue_points(), strict=True):
        trial = optuna.trial.FixedTrial(params)
        assert space.suggest(trial) == TrialConfig.from_dict({**space.fixed, **point})
        assert trial.params == params


def test_optuna_gives_the_points_first_and_then_samples(space: SearchSpace) -> None:
    sampler = optuna.samplers.TPESampler(seed=0, multivariate=True, group=True, n_startup_trials=4)
    study = optuna.create_study(sampler=sampler, direction="maximize")
    points = space.enqueue_points()
    for point in points:
        study.enqueue_trial(point)
    for number in range(len(points) + 6):
        trial = study.ask()
        config = space.suggest(trial)
        assert config == space.config(trial.params)
        if number < len(points):
            assert trial.params == points[number]
        study.tell(trial, config.dropout + config.label_smoothing)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=50)
@given(trial=trials())
def test_every_optimiser_has_a_learning_rate(name: str, trial: DrawnTrial) -> None:
    space = SPACES[name]
    space.suggest(trial)
    assert {"learning_rate", "weight_decay"} <= set(space.searched(trial.params))


def test_the_first_point_of_quick_is_the_one_that_is_known() -> None:
    config = TrialConfig.from_dict({**load_space("quick").fixed, **load_space("quick").points[0]})
    assert (config.optimiser, config.learning_rate, config.epochs) == ("adamw", 4e-3, 6)
    assert (config.label_smoothing, config.augmentation, config.batch_size) == (0.1, "flips", 64)


def test_a_description_is_json(space: SearchSpace) -> None:
    described = json.loads(json.dumps(describe(space)))
    assert list(described) == ["name", "summary", "seed", "open", "fixed"]
    assert set(described["open"]) == set(space.open)
    assert described["fixed"] == dict(space.fixed)
