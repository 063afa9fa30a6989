"""The commands of a report reproduce the study and its model."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from hpo.cli.run import init_command
from hpo.report.reproduce import SPACE_FILE, bundle_recipe, study_recipe
from hpo.search.resolved_space import resolve_space
from search_spaces import SearchSpace, load_space

from .conftest import make_study


def options_of(text):
    """Return the options of a command as click reads them, by name; those of a file with their list."""
    words = shlex.split(text.replace("\\\n", " "))
    assert words[:3] == ["hpo", "run", "DATA"]
    context = init_command.make_context("init", [*words[2:]])
    return context.params


def search_of(facts):
    recipe = study_recipe(facts, 3)
    return options_of(recipe.commands[0].text), recipe


def test_a_space_of_the_catalogue_with_values_fixed():
    facts = make_study(8)
    options, recipe = search_of(facts)
    assert options["space"] == "quick"
    assert not recipe.space_file
    again = resolve_space(options["space"], backbone=options["backbone"], fixed=options["fixed"])
    assert again.fingerprint == facts.spec.space_fingerprint
    assert (options["metric"], options["sampler"], options["pruner"]) == ("accuracy", "tpe", "hyperband")
    assert (options["seed"], options["val_fraction"], options["test_fraction"]) == (3, 0.25, 0.2)
    assert (options["trials"], options["max_unreadable"]) == (8, 0.05)


def test_a_custom_space_is_given_as_a_file(tmp_path):
    space = replace(load_space("quick"), name="mine", summary="").with_fixed({"dropout": 0.25, "image_size": 48})
    facts = make_study(8, space=space.to_dict())
    options, recipe = search_of(facts)
    assert options["space"] == SPACE_FILE
    (tmp_path / SPACE_FILE).write_text(recipe.space_file)
    assert load_space(str(tmp_path / SPACE_FILE)).fingerprint == facts.spec.space_fingerprint
    assert yaml.safe_load(recipe.space_file)["fixed"]["dropout"] == 0.25


def test_backbone_and_weights_have_options_of_their_own():
    space = load_space("quick").with_fixed(
        {"backbone": "resnet18", "weights": "/a b/w 1.safetensors", "pretrained": True}
    )
    facts = make_study(8, space=space.to_dict())
    options, _ = search_of(facts)
    assert options["backbone"] == "resnet18"
    assert str(options["weights"]) == "w 1.safetensors"
    assert not [text for text in options["fixed"] if text.startswith(("weights", "backbone", "pretrained"))]


@pytest.mark.parametrize("name", ["two words", "$(rm -rf)", "it's"])
def test_names_are_quoted(name):
    recipe = study_recipe(replace(make_study(4), name=name), 0)
    assert options_of(recipe.commands[0].text)["study"] == f"{name}-again"
    assert shlex.split(recipe.commands[1].text)[:4] == ["hpo", "export-best", "--study", name]
    assert shlex.split(bundle_recipe(name, retrained=False).commands[0].text)[2] == name


def test_only_the_test_part_is_offered_to_measure_a_retrained_bundle():
    parts = {kind: bundle_recipe("b", retrained=kind).commands[1].text.split()[-1] for kind in (True, False)}
    assert parts == {True: "test", False: "val"}


def test_a_study_over_a_trial_list_has_no_search_command():
    spec = make_study(4).spec.model_copy(update={"space": {"name": "list", "entries": []}})
    recipe = study_recipe(replace(make_study(4), spec=spec), 0)
    assert [command.text.split()[1] for command in recipe.commands] == ["export-best", "retrain"]


def test_a_study_over_a_trial_list_shows_the_command_that_created_it():
    spec = make_study(4).spec.model_copy(update={"space": {"name": "list", "entries": []}})
    facts = replace(make_study(4), spec=spec, command="hpo compare a b --data 'my cells'")
    founding, *_ = study_recipe(facts, 0).commands
    assert founding.text == facts.command
    assert "made this study" in founding.purpose


def test_without_a_complete_trial_there_is_only_the_search():
    assert len(study_recipe(make_study(4), None).commands) == 1


def test_fixed_values_of_the_space_are_not_repeated():
    assert SearchSpace.from_dict(make_study(4).spec.space).fixed["image_size"] == 32
    options, _ = search_of(make_study(4))
    assert set(options["fixed"]) <= {"image_size=32", "epochs=6"}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("my findings.csv --fix-leaks", {"findings": Path("my findings.csv"), "clean": False, "fix_leaks": True}),
        ("--clean", {"findings": None, "clean": True, "fix_leaks": False}),
        (None, {"findings": None, "clean": False, "fix_leaks": False}),
    ],
)
def test_the_search_leaves_out_what_the_study_left_out(source, expected):
    study = make_study(4)
    found = {"findings": {"source": source, "drops": {"odd": ["a.png"]}}} if source else {}
    spec = study.spec.model_copy(update={"data": {**study.spec.data, **found}})
    options = options_of(study_recipe(replace(study, spec=spec), None).commands[0].text)
    assert {key: options.get(key) for key in expected} == expected


@pytest.mark.parametrize(
    "held_out", [{}, {"group_by": r"patient (\d+)"}, {"folds": 3}, {"group_by": "dish", "folds": 3}]
)
def test_the_search_is_split_as_it_was(held_out):
    study = make_study(4)
    spec = study.spec.model_copy(update={"data": {**study.spec.data, **held_out}})
    options = options_of(study_recipe(replace(study, spec=spec), None).commands[0].text)
    assert {key: options.get(key) for key in ("group_by", "folds")} == {"group_by": None, "folds": None, **held_out}
