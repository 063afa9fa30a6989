from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from storage import StudySpec
from storage.spec import first_difference, make_id
from storage.stores import study_folder

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("stored", "asked", "words"),
    [
        ({"a": 1}, {"a": 2}, "a: stored 1, asked 2"),
        ({"a": {"b": [1, 2]}}, {"a": {"b": [1, 3]}}, "a.b.1: stored 2, asked 3"),
        ({"a": [1]}, {"a": [1, 2]}, "a: stored [1], asked [1, 2]"),
        ({"a": 1}, {}, "a: stored 1, asked nothing"),
        ({}, {"a": None}, "a: stored nothing, asked None"),
        ({"a": "x" * 99}, {"a": "y"}, f"a: stored {'x' * 57}…, asked y"),
    ],
)
def test_the_first_difference_is_given_in_words(stored: Any, asked: Any, words: str) -> None:
    assert first_difference(stored, asked) == words


@given(json_values, json_values)
def test_there_is_a_difference_exactly_when_the_values_differ(stored: Any, asked: Any) -> None:
    assert (first_difference(stored, asked) is None) == (stored == asked)


def test_a_spec_is_frozen_and_refuses_unknown_fields(spec: StudySpec) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        spec.seed = 1  # type: ignore[misc]
    with pytest.raises(ValidationError, match="colour"):
        StudySpec(**spec.model_dump(), colour="red")
    assert StudySpec.model_validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("cells", "cells"),
        ("PBC96.Standard_2", "pbc96.standard_2"),
        ("日本", "study"),
        ("x" * 99, "x" * 40),
        ("ümläut / 🔬", "ml-ut"),
    ],
)
def test_an_id_begins_with_the_plain_part_of_the_name(name: str, plain: str) -> None:
    assert make_id(name)[:-9] == plain
    assert make_id(name) != make_id(name)


@given(st.text(max_size=120))
def test_an_id_is_a_valid_folder_name(name: str) -> None:
    made = make_id(name)
    assert study_folder(made) == made
    assert len(made) <= 49
