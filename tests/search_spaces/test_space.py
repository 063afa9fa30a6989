"""Any valid space: what it suggests, its fingerprint, its form, and what fixing does to it."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces import (
    Choice,
    Float,
    Int,
    PlannedTrial,
    SearchSpace,
    SpaceError,
    TrialConfig,
    TrialList,
    load_space,
    parameter_name,
)
from tests.search_spaces.strategies import DrawnTrial, spaces, trials

ADAMW, SGD = {"optimiser": ("adamw",)}, {"optimiser": ("sgd",)}


@pytest.fixture
def space() -> SearchSpace:
    """Optimisers with their own learning rates, a nested condition, and a point for each optimiser."""
    return SearchSpace(
        "cells",
        fixed={"epochs": 12},
        dimensions={
            "dropout": (Float(0, 0.5),),
            "optimiser": (Choice(("adamw", "sgd")),),
            "learning_rate": (Float(1e-4, 1e-2, log=True, when=ADAMW), Float(1e-3, 1, log=True, when=SGD)),
            "head_layers": (Int(0, 3, when=ADAMW),),
            "head_units": (Int(64, 512, log=True, when={"head_layers": (1, 2, 3)}),),
        },
        points=(
            {"optimiser": "adamw", "learning_rate": 4e-3, "head_layers": 1, "head_units": 128, "dropout": 0.1},
            {"optimiser": "sgd", "learning_rate": 0.1},
        ),
    )


@given(spaces(), trials())
def test_a_suggestion_lies_inside_and_children_only_where_conditions_hold(
    space: SearchSpace, trial: DrawnTrial
) -> None:
    config = space.suggest(trial)
    got = space.searched(trial.params)
    for field, variants in space.dimensions.items():
        here = [v for v in variants if all({**space.fixed, **got}.get(p) in a for p, a in v.when.items())]
        assert (field in got) == bool(here)
        if here:
            assert len(here) == 1
            assert here[0].contains(got[field])
    assert config == TrialConfig.from_dict({**space.fixed, **got})
    assert space.config(trial.params) == config


@given(spaces(), trials())
def test_parents_are_asked_for_before_their_children(space: SearchSpace, trial: DrawnTrial) -> None:
    space.suggest(trial)
    asked = list(space.searched(trial.params))
    for field in asked:
        parents = {parent for variant in space.dimensions[field] for parent in variant.when}
        assert all(asked.index(parent) < asked.index(field) for parent in parents if parent in asked)


@given(spaces())
def test_a_space_survives_the_way_through_json(space: SearchSpace) -> None:
    again = SearchSpace.from_dict(json.loads(json.dumps(space.to_dict())))
    assert again == space
    assert again.fingerprint == space.fingerprint


@given(spaces(), st.randoms(use_true_random=False))
def test_the_fingerprint_knows_no_order_of_keys(space: SearchSpace, random: Any) -> None:
    def shuffled(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        keys = list(value)
        random.shuffle(keys)
        return {key: shuffled(value[key]) for key in keys}

    document = shuffled(space.to_dict())
    for variants in document["dimensions"].values():
        random.shuffle(variants)
    assert SearchSpace.from_dict(document).fingerprint == space.fingerprint


@given(spaces())
def test_every_variant_has_a_parameter_of_its_own(space: SearchSpace) -> None:
    names = [parameter_name(f, v, variants) for f, variants in space.dimensions.items() for v in variants]
    assert len(set(names)) == len(names)


@given(spaces())
def test_points_come_back_as_themselves(space: SearchSpace) -> None:
    for point, params in zip(space.points, space.enqueue_points(), strict=True):
        trial = optuna.trial.FixedTrial(params)
        space.suggest(trial)
        assert space.searched(trial.params) == dict(point)


@given(spaces(), trials(), st.data())
def test_fixing_a_value_of_a_trial_keeps_its_other_values(
    space: SearchSpace, trial: DrawnTrial, data: st.DataObject
) -> None:
    config = space.suggest(trial)
    got = space.searched(trial.params)
    held = data.draw(st.fixed_dictionaries({}, optional={name: st.just(value) for name, value in got.items()}))
    narrow = space.with_fixed(held)
    assert not set(narrow.open) & set(held)
    summed = {"epochs": config.epochs} if "epochs" in narrow.fixed else {}
    assert {**narrow.fixed} == {**summed, **space.fixed, **held}
    rest = {name: value for name, value in got.items() if name not in held}
    again = narrow.suggest(optuna.trial.FixedTrial(_named(narrow, rest)))
    assert again == config
    assert narrow.with_fixed(held) == narrow


def _named(space: SearchSpace, values: dict[str, Any]) -> dict[str, Any]:
    """Values under every name that their parameter may have in the space."""
    return {parameter_name(f, v, space.dimensions[f]): values[f] for f in values for v in space.dimensions[f]}


@given(spaces(), trials())
def test_optuna_models_any_space(space: SearchSpace, trial: DrawnTrial) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    params = space.enqueue_points()
    for point in params:
        study.enqueue_trial(point)
    for point in params:
        asked = study.ask()
        space.suggest(asked)
        assert asked.params == point
    space.suggest(study.ask())


def test_names_of_parameters() -> None:
    one = Float(0, 1, when={"optimiser": ("sgd", "adamw")})
    two = Float(0, 1, when={"optimiser": ("lion",), "loss": ("focal",), "head_layers": (1, 2)})
    assert parameter_name("dropout", one, (one,)) == "dropout"
    assert parameter_name("dropout", one, (one, two)) == "dropout[adamw|sgd]"
    assert parameter_name("dropout", two, (one, two)) == "dropout[head_layers=1|2,loss=focal,optimiser=lion]"


def test_variants_whose_parameters_would_have_one_name() -> None:
    one = Float(0.1, 0.2, when={"backbone": ("a|b",)})
    other = Float(0.3, 0.4, when={"backbone": ("a", "b")})
    backbone = (Choice(("a", "b", "a|b")),)
    with pytest.raises(SpaceError, match="dropout: two variants have conditions that read the same"):
        SearchSpace("any", dimensions={"backbone": backbone, "dropout": (one, other)})


def test_a_condition_that_a_fixed_value_meets_is_no_condition() -> None:
    when = {"optimiser": ("adamw", "sgd")}
    space = SearchSpace("any", fixed={"optimiser": "sgd"}, dimensions={"dropout": (Float(0, 0.5, when=when),)})
    assert space.dimensions["dropout"] == (Float(0, 0.5),)


def test_a_field_that_does_not_exist_keeps_its_default(space: SearchSpace) -> None:
    config = space.suggest(optuna.trial.FixedTrial({"optimiser": "sgd", "learning_rate[sgd]": 0.1, "dropout": 0.2}))
    assert (config.learning_rate, config.dropout, config.epochs) == (0.1, 0.2, 12)
    assert config.head_units == TrialConfig().head_units


def test_the_fingerprint_follows_the_possible_trials(space: SearchSpace) -> None:
    def changed(**parts: Any) -> str:
        return SearchSpace.from_dict({**space.to_dict(), **parts}).fingerprint

    same = space.fingerprint
    assert changed(name="x", summary="y", seed="000", points=[]) == same
    assert changed(fixed={"epochs": 12, "symmetry": "none", "weights": "/a.safetensors"}) == same
    assert changed(fixed={"epochs": 12, "symmetry": "none", "unfreeze_from": "head"}) == same, "as before the field"
    assert changed(fixed={"epochs": 12, "symmetry": "none", "unfreeze_from": "stem"}) != same
    assert changed(fixed={"epochs": 13, "symmetry": "none"}) != same
    assert changed(fixed={"epochs": 12, "symmetry": "mirror"}) != same
    wider = {**space.to_dict()["dimensions"], "dropout": {"type": "float", "low": 0, "high": 0.6}}
    assert changed(dimensions=wider) != same


def test_a_fixed_value_is_the_same_however_it_is_written(space: SearchSpace) -> None:
    assert space.with_fixed({"dropout": 0}).fingerprint == space.with_fixed({"dropout": "0.0"}).fingerprint


def test_fixing_decides_conditions_and_takes_points_along_intact_ones_first(space: SearchSpace) -> None:
    narrow = space.with_fixed({"optimiser": "sgd"})
    assert narrow.open == ("dropout", "learning_rate")
    assert narrow.dimensions["learning_rate"] == (Float(1e-3, 1, log=True),)
    assert narrow.enqueue_points() == [{"learning_rate": 0.1}, {"dropout": 0.1}]


def test_fixing_the_value_that_a_point_has_keeps_the_point(space: SearchSpace) -> None:
    narrow = space.with_fixed({"optimiser": "adamw", "dropout": 0.1})
    assert narrow.enqueue_points()[0] == {"learning_rate": 4e-3, "head_layers": 1, "head_units": 128}
    assert len(narrow.points) == 1


def test_a_dimension_goes_with_the_parent_that_cannot_exist(space: SearchSpace) -> None:
    assert "head_units" not in space.with_fixed({"head_layers": 0}).open
    assert "head_units" not in space.with_fixed({"optimiser": "sgd"}).open


def test_points_that_become_equal_are_tried_once(space: SearchSpace) -> None:
    narrow = space.with_fixed({"optimiser": "sgd", "dropout": 0.3, "learning_rate": 0.1})
    assert narrow.points == ()
    assert narrow.suggest(optuna.trial.FixedTrial({})).learning_rate == 0.1


def test_a_value_outside_the_range_may_be_fixed(space: SearchSpace) -> None:
    assert space.with_fixed({"dropout": 0.9}).fixed["dropout"] == 0.9


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"optimiser": "lion"},
            "optimiser is 'lion', which the space does not try, so it has no head_layers and no lea",
        ),
        ({"optimiser": "foo"}, "optimiser is 'foo', but must be"),
        ({"dropuot": 0.1}, "dropuot: no such key; did you mean dropout?"),
        ({"dropout": 2}, "dropout is 2, but must be less than 1"),
    ],
)
def test_fixing_refuses(space: SearchSpace, values: dict[str, Any], message: str) -> None:
    with pytest.raises(SpaceError) as caught:
        space.with_fixed(values)
    assert str(caught.value).startswith(message)


def test_a_new_optimiser_needs_the_fields_that_depend_on_it(space: SearchSpace) -> None:
    narrow = space.with_fixed({"optimiser": "lion", "learning_rate": 1e-4, "head_layers": 0})
    assert narrow.open == ("dropout",)


def test_searched_refuses_a_parameter_of_another_space(space: SearchSpace) -> None:
    assert space.searched({"learning_rate[sgd]": 0.1}) == {"learning_rate": 0.1}
    with pytest.raises(SpaceError, match=r"learning_rate: no such parameter; did you mean learning_rate\["):
        space.searched({"learning_rate": 0.1})


def test_a_space_cannot_be_changed(space: SearchSpace) -> None:
    for mapping in (space.fixed, space.dimensions, space.points[0]):
        with pytest.raises(TypeError):
            mapping["epochs"] = 1


def test_an_empty_space_gives_the_defaults() -> None:
    assert SearchSpace("empty").suggest(optuna.trial.FixedTrial({})) == TrialConfig()


def test_symmetry_is_fixed_always_and_never_searched() -> None:
    assert SearchSpace("plain").fixed == {"symmetry": "none"}
    assert SearchSpace("plain").with_fixed({"symmetry": "mirror"}).largest().symmetry == "mirror"
    with pytest.raises(SpaceError, match=r"dimensions\.symmetry is open, but must be fixed"):
        SearchSpace("open", dimensions={"symmetry": (Choice(("none", "mirror")),)})


@pytest.mark.parametrize("strength", [{"augmentation_strength": 0.5}, {}])
def test_flips_that_would_do_nothing_are_refused(strength: dict[str, float]) -> None:
    with pytest.raises(SpaceError, match="augmentation flips would do nothing under symmetry none: give symmetry"):
        SearchSpace("flat", fixed={"augmentation": "flips", **strength})
    with pytest.raises(SpaceError, match="augmentation flips would do nothing"):
        SearchSpace("flat", dimensions={"augmentation": (Choice(("none", "flips", "geometric")),)})
    with pytest.raises(SpaceError, match="augmentation flips would do nothing"):
        load_space("standard").with_fixed({"augmentation": "flips"})
    for symmetry in ("mirror", "dihedral"):
        assert SearchSpace("fit", fixed={"augmentation": "flips", "symmetry": symmetry}).fixed["symmetry"] == symmetry


def test_a_space_stored_before_symmetry_was_a_field_is_read_as_it_was_meant() -> None:
    stored = {"name": "old", "summary": "", "seed": None, "fixed": {"epochs": 3}, "dimensions": {}, "points": []}
    old = SearchSpace.from_dict(stored)
    assert old.largest().symmetry == "dihedral"
    content = json.dumps({"fixed": {"epochs": 3}, "dimensions": {}}, sort_keys=True)
    assert old.fingerprint == hashlib.sha256(content.encode()).hexdigest()
    assert old.fingerprint != SearchSpace("new", fixed={"epochs": 3}).fingerprint
    assert SearchSpace.from_dict(old.to_dict()) == old


def test_parameters_that_a_trial_was_given_are_checked_as_far_as_they_say() -> None:
    space = SearchSpace(
        name="s", fixed={"epochs": 3},
        dimensions={
            "optimiser": (Choice(("adamw", "sgd")),),
            "learning_rate": (
                Float(1e-4, 1e-2, log=True, when={"optimiser": ("adamw",)}),
                Float(1e-2, 1.0, log=True, when={"optimiser": ("sgd",)}),
            ),
        },
    )  # fmt: skip
    for params in (
        {},
        {"optimiser": "sgd"},
        {"learning_rate[sgd]": 0.1},
        {"optimiser": "sgd", "learning_rate[sgd]": 1},
    ):
        space.check_parameters(params)
    for params, text in [
        ({"learning_rate": 0.1}, "is no parameter of this study"),
        ({"epochs": 3}, "epochs is fixed to 3"),
        ({"optimiser": "lion"}, "must be in"),
        ({"learning_rate[sgd]": 2}, "must be in"),
        ({"optimiser": "adamw", "learning_rate[sgd]": 0.1}, "exists only when optimiser"),
    ]:
        with pytest.raises(SpaceError, match=text):
            space.check_parameters(params)


def test_a_field_added_later_leaves_fingerprints_unchanged_at_the_behaviour_from_before() -> None:
    """Spaces, and lists of configurations, which are stored with every field."""
    plain = SearchSpace("s", fixed={"epochs": 3})
    assert plain.with_fixed({"oversample_to": 0, "background": "keep"}).fingerprint == plain.fingerprint
    assert plain.with_fixed({"background": "mask"}).fingerprint != plain.fingerprint
    both = [TrialList("l", "", (PlannedTrial("a", TrialConfig(oversample_to=count)),)).to_dict() for count in (0, 7)]
    for values in both:
        config = values["entries"][0]["config"]
        values["entries"][0]["config"] = {k: v for k, v in config.items() if k not in ("oversample_to", "background")}
    before, without = (TrialList.from_dict(values) for values in both)
    assert before == without
    assert before.fingerprint == TrialList("l", "", (PlannedTrial("a", TrialConfig()),)).fingerprint
