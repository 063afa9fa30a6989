"""The spaces that ship: their points, their ranges, and that optuna's own sampler works in them."""

from __future__ import annotations

import json

import optuna
import pytest
from hypothesis import given, settings

from search_spaces import SearchSpace, TrialConfig, catalog, describe, earlier_edition, load_space
from tests.search_spaces.strategies import DrawnTrial, trials

GENERAL = {"quick", "robust", "standard", "thorough"}
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
    """Return what the first point gives: the authors' final recipe."""
    return space.suggest(optuna.trial.FixedTrial(next(iter(space.enqueue_points()), {})))


def test_names_of_the_shipped_spaces() -> None:
    assert set(NAMES) == GENERAL | BASELINES | set().union(*SEEDS.values())
    assert {seed: {name for name in NAMES if SPACES[name].seed == seed} for seed in SEEDS} == SEEDS


def test_each_space_has_a_summary_of_one_line(space: SearchSpace) -> None:
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


def test_the_first_point_of_quick_is_the_known_good_one() -> None:
    config = TrialConfig.from_dict({**load_space("quick").fixed, **load_space("quick").points[0]})
    assert (config.optimiser, config.learning_rate, config.epochs) == ("adamw", 4e-3, 6)
    assert (config.label_smoothing, config.augmentation, config.batch_size) == (0.1, "mixture", 64)


def test_a_description_is_json(space: SearchSpace) -> None:
    described = json.loads(json.dumps(describe(space)))
    assert list(described)[:5] == ["name", "summary", "seed", "open", "fixed"]
    assert set(described["open"]) == set(space.open)
    assert described["fixed"] == dict(space.fixed)


def test_a_preset_names_its_backbone_and_its_epochs(preset: SearchSpace) -> None:
    assert "backbone" in {*preset.fixed, *preset.open}
    assert "epochs" in preset.fixed
    assert final(preset).epochs == sum(phase.epochs for phase in final(preset).phases) or not final(preset).phases


def test_a_preset_opens_the_fields_that_were_searched_and_a_baseline_none(preset: SearchSpace) -> None:
    assert bool(preset.open) == bool(preset.points) == (preset.name not in BASELINES)


def test_a_preset_takes_another_backbone_and_another_image_size(preset: SearchSpace) -> None:
    changed = {"backbone": "mobilenetv2_035", "image_size": 64}
    small = preset.with_fixed(changed)
    assert final(small) == final(preset).replace(**changed)
    assert set(preset.open) - set(small.open) <= {"backbone"}


def test_the_head_trains_first(preset: SearchSpace) -> None:
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
def test_a_preset_tries_the_published_values_first(name: str, values: dict[str, object]) -> None:
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


BEFORE_SYMMETRY = {
    "cnn3-from-scratch": "dc5fe723452057a0b7b9332d686e17b263629edd6fdd6245c369b369bd8233df",
    "convnext-large-last-layers": "2aaa3bc5609abd002373ada365460d68647ebca5d9314a62c119f9382ea3f64f",
    "convnext-small-selective": "0cabf00ff2302e4e9f5295c3e0a9b4c78dcd59162ff815bba2066f831155014c",
    "convnext-xlarge-augmix": "c51333924f9ccb09181634b7052d510e412a76a347a6e2f69c55360a4444f291",
    "deepefficientnet-from-scratch": "d9067505a13fd8ccfee6ed193175252d47deb84caa49cfae5ac5132dad0672aa",
    "efficientnetlite-from-scratch": "bbded940d31afde43ea246356ea8c43899f7e76a5e4c0ca5733046219f321a39",
    "efficientnetv2-l-two-phase": "87f168f980953f64461dee82f97db90ffa0d27570737bf8e06c57f5eb52c8b14",
    "majority-class": "819864043bc48a897dcce6fb7cfcb3966ea77dbc85e7be3de3a5424129a6d5e1",
    "quick": "7b632b10a5058fa253da048812454dfb34f91945b42b22e3e91b6b2d542cce9e",
    "random-guess": "f2223f518958181bc8a831df31e082cf045b25fb8d18744bf9fde77fcc09bc1d",
    "resnet18-fine-tuned": "5a7c89e5bee8d638979b20b4bd30d3a0709891d3b87c6a848d8e2be3a4e335d9",
    "simplecnn-from-scratch": "624e42a62339c3850edcf67d908c54f59fa1305ab56902c641712bddf27af395",
    "standard": "c6b8f7c95eab38d53444742071e860f96fa6a519e69ec543c08a2e87fe597d24",
    "thorough": "7e47be5674cbcc854d6b1e91ba3ca1c8f40c6111bfae5aa67a5c38c12c9da900",
}
"""Fingerprints that studies hold which were made before `symmetry` was a field."""


@pytest.mark.parametrize("name", BEFORE_SYMMETRY)
def test_a_study_from_before_symmetry_finds_the_space_that_it_was_made_with(name: str) -> None:
    earlier = (earlier_edition(name) or load_space(name)).with_fixed({"symmetry": "dihedral"})
    assert (earlier.name, earlier.fingerprint) == (name, BEFORE_SYMMETRY[name])
    unchanged = earlier_edition(name) is None and load_space(name).fixed["symmetry"] == "dihedral"
    assert (load_space(name).fingerprint == BEFORE_SYMMETRY[name]) is unchanged


BEFORE_MIXTURES = {
    "quick": "cd780877b32432bad9741f1818a7ac3f120ea48d90f2ef2103632fb5daf2ce9a",
    "standard": "f395d079630cf413c246d0f6a5db87e6b614f00cd58df9920f9b9b7ac66e4e0c",
    "thorough": "98b9f140a78c3df60be6a78e041a8affb7e5b8be3be8599fe6b8609b6c11ae55",
}
"""Fingerprints of the spaces from when `symmetry` became a field until they had mixtures of families."""


@pytest.mark.parametrize("name", BEFORE_MIXTURES)
def test_a_study_from_before_mixtures_finds_the_space_that_it_was_made_with(name: str) -> None:
    earlier = earlier_edition(name, since="symmetry")
    assert earlier is not None
    assert (earlier.name, earlier.fingerprint) == (name, BEFORE_MIXTURES[name])
    assert load_space(name).fingerprint != earlier.fingerprint
    assert "mixture" in load_space(name).values("augmentation")


@pytest.mark.parametrize("space", SPACES.values(), ids=NAMES)
def test_only_recipes_for_blood_cells_mirror_and_turn_images(space: SearchSpace) -> None:
    cells = space.name not in GENERAL | BASELINES
    assert space.fixed["symmetry"] == ("dihedral" if cells else "none")
    assert space.values("symmetry") == [space.fixed["symmetry"]]
    assert "flips" not in space.values("augmentation")
