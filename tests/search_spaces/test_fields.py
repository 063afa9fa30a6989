"""What a text means for a field, as in `--set key=value`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces import SpaceError, TrialConfig, parse_value


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("learning_rate", "1e-4", 1e-4),
        ("learning_rate", "1", 1.0),
        ("epochs", "12", 12),
        ("pretrained", "false", False),
        ("optimiser", "lion", "lion"),
        ("class_weights", "none", "none"),
        ("backbone", "123", "123"),
        ("weights", "null", None),
        ("weights", "a=b.pth", "a=b.pth"),
    ],
)
def test_a_text_gets_the_type_of_the_field(field: str, text: str, value: object) -> None:
    parsed = parse_value(field, text)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("field", "text", "message"),
    [
        ("learning_rte", "1", "learning_rte: no such key; did you mean learning_rate?"),
        ("x", "1", "x: no such key; there are backbone, "),
        ("optimiser", "foo", "optimiser is 'foo', but must be 'adamw', "),
        ("dropout", "2", "dropout is '2', but must be less than 1"),
        ("epochs", "1.5", "epochs is '1.5', but must be a valid integer"),
        ("epochs", "", "epochs is '', but must be a valid integer"),
        ("learning_rate", "nan", "learning_rate is 'nan', but must be"),
        ("gradient_clip", "inf", "gradient_clip is 'inf', but must be finite"),
        ("backbone", "", "backbone is '', but"),
        ("epochs", "null", "epochs is 'null', but must be a valid integer"),
    ],
)
def test_a_wrong_text_names_key_and_rule(field: str, text: str, message: str) -> None:
    with pytest.raises(SpaceError) as caught:
        parse_value(field, text)
    assert str(caught.value).startswith(message)


@given(st.sampled_from(list(TrialConfig.model_fields)), st.text())
def test_any_text_is_a_value_or_one_line(field: str, text: str) -> None:
    value, message = outcome(field, text)
    if message:
        assert message.startswith(field)
        assert len(message.splitlines()) == 1
    else:
        assert getattr(TrialConfig.from_dict({field: value}), field) == value


def outcome(field: str, text: str) -> tuple[object, str]:
    try:
        return parse_value(field, text), ""
    except SpaceError as error:
        return None, str(error)
