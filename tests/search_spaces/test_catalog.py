"""The spaces that ship: their points, their ranges, and that optuna's own sampler works in them."""

from __future__ import annotations

import json

import optuna
import pytest
from hypothesis import given, settings

from search_spaces import SearchSpace, TrialConfig, catalog, describe, load_space
from tests.search_spaces.strategies import DrawnTrial, trials

GENERAL = {"quick", "standard", "thorough"}
BASELINES = {"random-guess", "majority-class"}
SEEDS = {
    "000": {"convnext-xlarge-augmix", "random-guess"},
    "001": {"cnn3-from-scratch", "convnext-small-selective"},
    "002": {"efficientnetv2-l-two-phase"},
    "003": {"convnext-large-last-layers"},
    "004": {
        "deepefficientnet-from-scratch",
        "efficientnetlite-from-scratch",
        "resnet18-fine-tuned",
        "simplecnn-from-scratch",
    },
}
SPACES = {space.name: space for space in catalog()}
NAMES = list(SPACES)
PRESETS = [name for name in NAMES if name not in GENERAL]


@pytest.fixture(params=NAMES)
def space(request: pytest.FixtureRequest) -> SearchSpace:
    return SPACES[request.param]


@pytest.fixture(params=sorted(GENERAL))
def general(request: pytest.FixtureRequest) -> SearchSpace:
    return SPACES[request.param]


@pytest.fixture(params=PRESETS)
def preset(request: pytest.FixtureRequest) -> SearchSpace:
    return SPACES[request.param]


def final(space: SearchSpace) -> TrialConfig:
    """What the first point gives: the authors' final recipe."""
    return space.suggest(optuna.trial.FixedTrial(next(iter(space.enqueue_points()), {})))


def test_what_ships() -> None:
    assert set(NAMES) == GENERAL | BASELINES | set().union(*SEEDS.values())
    assert {seed: {name for name in NAMES if SPACES[name].seed == seed} for seed in SEEDS} == SEEDS


def test_each_says_in_one_line_what_it_is(space: SearchSpace) -> None:
    assert 20 <= len(space.summary) <= 100
    assert len(space.summary.splitlines()) == 1


def test_the_general_ones_start_from_several_known_good_points(general: SearchSpace) -> None:
    assert 2 <= len(general.points) <= 4


def test_of_the_general_ones_the_backbone_is_the_users(general: SearchSpace) -> None:
    assert "backbone" not in {*general.fixed, *general.open}
    assert general.with_fixed({"backbone": "mobilenetv2_035"}).open == general.open


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
@settings(max_examples=30)
@given(trial=trials())
def test_every_optimiser_has_a_learning_rate_and_a_weight_decay(name: str, trial: DrawnTrial) -> None:
    space = SPACES[name]
    space.suggest(trial)
    if "optimiser" in space.open or name in GENERAL:
        assert {"learning_rate", "weight_decay"} <= set(space.searched(trial.params))


def test_the_first_point_of_quick_is_the_one_that_is_known() -> None:
    config = TrialConfig.from_dict({**load_space("quick").fixed, **load_space("quick").points[0]})
    assert (config.optimiser, config.learning_rate, config.epochs) == ("adamw", 4e-3, 6)
    assert (config.label_smoothing, config.augmentation, config.batch_size) == (0.1, "flips", 64)


def test_a_description_is_json(space: SearchSpace) -> None:
    described = json.loads(json.dumps(describe(space)))
    assert list(described)[:5] == ["name", "summary", "seed", "open", "fixed"]
    assert set(described["open"]) == set(space.open)
    assert described["fixed"] == dict(space.fixed)


def test_a_preset_names_its_backbone_and_its_epochs(preset: SearchSpace) -> None:
    assert "backbone" in {*preset.fixed, *preset.open}
    assert "epochs" in preset.fixed
    assert final(preset).epochs == sum(phase.epochs for phase in final(preset).phases) or not final(preset).phases


def test_a_preset_leaves_open_what_was_searched_and_a_baseline_nothing(preset: SearchSpace) -> None:
    assert bool(preset.open) == bool(preset.points) == (preset.name not in BASELINES)


def test_a_preset_takes_another_backbone_and_another_image_size(preset: SearchSpace) -> None:
    changed = {"backbone": "mobilenetv2_035", "image_size": 64}
    small = preset.with_fixed(changed)
    assert final(small) == final(preset).replace(**changed)
    assert set(preset.open) - set(small.open) <= {"backbone"}


def test_what_was_trained_first_was_the_head(preset: SearchSpace) -> None:
    phases = final(preset).phase_configs()
    if len(phases) > 1:
        assert [phase.unfreeze_depth == 0 for phase in phases] == [True, False]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        (
            "convnext-xlarge-augmix",
            {"optimiser": "adamw", "loss": "focal", "head_layers": 3, "head_activation": "silu", "gridmask": 0.5},
        ),
        ("cnn3-from-scratch", {"pretrained": False, "class_weights": "inverse", "augmentation": "geometric-colour"}),
        ("efficientnetv2-l-two-phase", {"optimiser": "adamw", "loss": "focal", "randaugment_operations": 3}),
        (
            "convnext-large-last-layers",
            {"batch_size": 256, "dropout": 0.35, "l1": 1e-3, "l2": 1e-3, "learning_rate": 1e-3, "weight_decay": 1e-5}
            | {"optimiser": "adamw", "patience": 4, "validation_augmented": 0.7},
        ),
        (
            "deepefficientnet-from-scratch",
            {"image_size": 224, "epochs": 50, "batch_size": 32, "learning_rate": 1e-3, "optimiser": "adamw"}
            | {"label_smoothing": 0.1, "dropout": 0.3, "schedule": "cosine"},
        ),
    ],
)
def test_what_the_authors_say_is_what_their_preset_tries_first(name: str, values: dict[str, object]) -> None:
    config = final(SPACES[name])
    assert {key: getattr(config, key) for key in values} == values


def test_the_two_phases_of_seed_002() -> None:
    head, deeper = final(SPACES["efficientnetv2-l-two-phase"]).phase_configs()
    assert (head.unfreeze_depth, head.learning_rate, head.schedule) == (0, 1e-4, "plateau")
    assert (deeper.unfreezing, deeper.learning_rate, deeper.schedule) == ("gradual", 1e-5, "cosine-restarts")


def test_networks_compared_by_one_recipe_differ_in_the_network_alone() -> None:
    recipe = final(SPACES["deepefficientnet-from-scratch"])
    lite, simple, resnet = (
        final(SPACES[name])
        for name in ("efficientnetlite-from-scratch", "simplecnn-from-scratch", "resnet18-fine-tuned")
    )
    assert lite == recipe.replace(backbone="efficientnetlite")
    assert simple == recipe.replace(backbone="simplecnn", drop_path=0.0)
    assert resnet == recipe.replace(backbone="resnet18.tv_in1k", pretrained=True)
