"""Ranges, choices and conditions: what they refuse, and that they survive the way through JSON."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from optuna.distributions import FloatDistribution, IntDistribution

from search_spaces import Choice, Dimension, Float, Int, SpaceError, dimension_from_dict
from tests.search_spaces.strategies import DrawnTrial, dimensions, trials


@given(dimensions())
def test_a_dimension_survives_the_way_through_json(named: tuple[str, Dimension]) -> None:
    _, dimension = named
    assert dimension_from_dict(json.loads(json.dumps(dimension.to_dict()))) == dimension


@given(dimensions(), trials())
def test_a_dimension_contains_the_values_that_it_gives(named: tuple[str, Dimension], trial: DrawnTrial) -> None:
    name, dimension = named
    assert dimension.fitted(name).contains(dimension.fitted(name).suggest(trial, name))


@given(dimensions())
def test_optuna_takes_every_range_as_it_is(named: tuple[str, Dimension]) -> None:
    _, dimension = named
    if isinstance(dimension, Float):
        taken = FloatDistribution(dimension.low, dimension.high, log=dimension.log, step=dimension.step)
        assert (taken.low, taken.high) == (dimension.low, dimension.high)
    elif isinstance(dimension, Int):
        whole = IntDistribution(dimension.low, dimension.high, log=dimension.log, step=dimension.step or 1)
        assert (whole.low, whole.high) == (dimension.low, dimension.high)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"type": "float", "low": 0.1, "high": 0.01}, "low is 0.1, but must be < high (0.01)"),
        ({"type": "float", "low": 0.1, "high": 0.1}, "low is 0.1, but must be < high (0.1); a single value belongs"),
        ({"type": "int", "low": 4, "high": 2}, "low is 4, but must be < high (2)"),
        ({"type": "float", "low": 0, "high": 1, "log": True}, "low is 0.0, but must be > 0 where log is true"),
        ({"type": "int", "low": 0, "high": 8, "log": True}, "low is 0, but must be > 0 where log is true"),
        ({"type": "float", "low": 1, "high": 2, "log": True, "step": 0.5}, "step is 0.5, but must be left out"),
        ({"type": "int", "low": 1, "high": 9, "log": True, "step": 2}, "step is 2, but must be left out"),
        ({"type": "float", "low": 0, "high": 1, "step": 0}, "step is 0.0, but must be > 0"),
        ({"type": "float", "low": 0, "high": 1, "step": 0.3}, "step is 0.3, but must lead from low (0.0) to high"),
        ({"type": "int", "low": 0, "high": 5, "step": 2}, "step is 2, but must lead from low (0) to high (5)"),
        ({"type": "float", "low": "a", "high": 1}, "low is 'a', but must be a number"),
        ({"type": "float", "low": True, "high": 2}, "low is True, but must be a number"),
        ({"type": "float", "low": 0, "high": math.inf}, "high is inf, but must be finite"),
        ({"type": "float", "low": math.nan, "high": 1}, "low is nan, but must be finite"),
        ({"type": "float", "low": 0, "high": 10**400}, "but must be finite"),
        ({"type": "int", "low": 0.5, "high": 2}, "low is 0.5, but must be a whole number"),
        ({"type": "int", "low": 0, "high": math.inf}, "high is inf, but must be a whole number"),
        ({"type": "float", "low": 0, "high": 1, "log": "yes"}, "log is 'yes', but must be true or false"),
        ({"type": "choice", "choices": []}, "choices is empty, but must hold at least one value"),
        ({"type": "choice", "choices": "adamw"}, "choices is 'adamw', but must be a list"),
        ({"type": "choice", "choices": [1, 2, 1]}, "choices[2] is 1, but must differ from those before it"),
        ({"type": "choice", "choices": [[1]]}, "choices[0] is [1], but must be text, a number, true, false or null"),
        ({"type": "choice"}, "choices is missing, but a dimension of type choice needs it"),
        ({"type": "float", "low": 1}, "high is missing, but a dimension of type float needs it"),
        ({"type": "flot", "low": 1, "high": 2}, "type is 'flot', but must be float, int, choice"),
        ({"low": 1, "high": 2}, "type is None, but must be float, int, choice"),
        ({"type": "int", "low": 1, "hihg": 2}, "hihg: no such key of a dimension of type int; did you mean high?"),
        ({"type": "choice", "choices": [1], "low": 1}, "low: no such key of a dimension of type choice"),
        ({"type": "choice", "choices": [1], "when": "x"}, "when is 'x', but must be a mapping"),
        ({"type": "choice", "choices": [1], "when": {"los": "focal"}}, "when.los: no such dimension; did you mean"),
        ({"type": "choice", "choices": [1], "when": {"loss": []}}, "when.loss is empty"),
        ({"type": "choice", "choices": [1], "when": {"loss": "l2"}}, "when.loss is 'l2', but must be 'cross-entropy'"),
    ],
)  # fmt: skip
def test_a_broken_rule_is_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(SpaceError) as caught:
        dimension_from_dict(values)
    assert str(caught.value).startswith(message) or message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "dimension", "message"),
    [
        ("dropout", Float(0, 2), "high is 2.0, but must be less than 1"),
        ("learning_rate", Float(0, 1), "low is 0.0, but must be greater than 0"),
        ("epochs", Int(0, 5), "low is 0, but must be greater than or equal to 1"),
        ("epochs", Float(1, 5), "type is 'float', but epochs needs int or choice"),
        ("optimiser", Int(1, 5), "type is 'int', but optimiser needs choice"),
        ("pretrained", Int(0, 1), "type is 'int', but pretrained needs choice"),
        ("optimiser", Choice(("adamw", "foo")), "choices[1] is 'foo', but must be 'adamw'"),
        ("epochs", Choice((True,)), "choices[0] is True, but must be a number"),
        ("image_size", Choice((64, "64")), "choices[1] is 64, but must differ from those before it"),
    ],
)
def test_values_that_the_field_refuses_are_named(field: str, dimension: Dimension, message: str) -> None:
    with pytest.raises(SpaceError) as caught:
        dimension.fitted(field)
    assert str(caught.value).startswith(message)


def test_choices_take_the_type_of_the_field() -> None:
    typed = Choice((0, "0.99")).fitted("ema")
    assert [type(value) for value in typed.choices] == [float, float]


def test_a_condition_has_one_form() -> None:
    one = Choice((1,), when={"loss": "focal", "optimiser": ["lion", "adamw"]})
    other = Choice((1,), when={"optimiser": ("adamw", "lion"), "loss": ("focal",)})
    assert json.dumps(one.to_dict()) == json.dumps(other.to_dict())


def test_a_dimension_cannot_be_changed() -> None:
    dimension = Float(0, 1, when={"loss": ("focal",)})
    with pytest.raises(AttributeError):
        dimension.low = 2
    with pytest.raises(TypeError):
        dimension.when["loss"] = ("cross-entropy",)


@pytest.mark.parametrize(
    ("dimension", "value", "inside"),
    [
        (Float(0.4, 1.0, step=0.1), 0.7, True),
        (Float(0.4, 1.0, step=0.1), 0.75, False),
        (Float(0, 1), 1, True),
        (Float(0, 1), 1.1, False),
        (Float(0, 1), True, False),
        (Float(0, 1), "0.5", False),
        (Int(1, 9, step=2), 3, True),
        (Int(1, 9, step=2), 4, False),
        (Int(1, 9), 1.5, False),
        (Choice(("adamw", "sgd")), "lion", False),
    ],
)
def test_contains(dimension: Dimension, value: object, inside: bool) -> None:
    assert dimension.contains(value) is inside


@pytest.mark.parametrize(
    ("dimension", "text"),
    [
        (Float(1e-4, 0.1, log=True), "0.0001 to 0.1, log"),
        (Float(0.4, 1.0, step=0.1), "0.4 to 1 by 0.1"),
        (Int(1, 1_000_000), "1 to 1000000"),
        (Choice(("adamw", 0.99, True, None)), "adamw | 0.99 | true | null"),
    ],
)
def test_a_dimension_in_words(dimension: Dimension, text: str) -> None:
    assert str(dimension) == text
