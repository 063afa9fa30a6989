"""What a text means for a field, as in `--set key=value`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces import Phase, SpaceError, TrialConfig, parse_value


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
        ("augmix_consistency", "12", 12.0),
        ("phase1.epochs", "3", 3),
        ("phase2.learning_rate", "1", 1.0),
        ("phase99.schedule", "plateau", "plateau"),
        ("phase2.optimiser", "null", None),
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
        ("epochs", "1.5", "epochs is '1.5', but must be a whole number"),
        ("epochs", "", "epochs is '', but must be a whole number"),
        ("learning_rate", "nan", "learning_rate is nan, but must be finite"),
        ("gradient_clip", "inf", "gradient_clip is inf, but must be finite"),
        ("epochs", "banana", "epochs is 'banana', but must be a whole number"),
        ("learning_rate", "fast", "learning_rate is 'fast', but must be a number"),
        ("pretrained", "maybe", "pretrained is 'maybe', but must be true or false"),
        ("backbone", "", "backbone is '', but must not be empty"),
        ("epochs", "null", "epochs is 'null', but must be a whole number"),
        (
            "phases",
            "2",
            "phases: no such key; give the fields of each phase, as phase1.epochs and phase1.learning_rate",
        ),
        ("phase2.learning_rat", "1", "phase2.learning_rat: no such key; did you mean phase2.learning_rate?"),
        ("phase2.optimizer", "sgd", "phase2.optimizer: no such key; did you mean phase2.optimiser?"),
        ("phase12.dropout", "0", "phase12.dropout: no such key; a phase has epochs, unfreeze_depth, "),
        ("phase1", "2", "phase1: no such key; a phase has epochs, unfreeze_depth, "),
        ("phse2.epochs", "2", "phse2.epochs: no such key; did you mean phase2.epochs?"),
        ("phase0.epochs", "2", "phase0.epochs: no such key; phases are numbered from 1 to 99"),
        ("phase100.epochs", "2", "phase100.epochs: no such key; phases are numbered from 1 to 99"),
        ("phase1٣.epochs", "2", "phase1٣.epochs: no such key"),
        ("phase1.epochs", "null", "phase1.epochs is 'null', but must be a whole number"),
        ("phase1.epochs", "0", "phase1.epochs is '0', but must be greater than or equal to 1"),
        ("phase2.schedule", "x", "phase2.schedule is 'x', but must be 'constant', "),
    ],
)
def test_a_wrong_text_names_key_and_rule(field: str, text: str, message: str) -> None:
    with pytest.raises(SpaceError) as caught:
        parse_value(field, text)
    assert str(caught.value).startswith(message)
    assert str(caught.value) == message or message.endswith((", ", "key", "less than 1")), "nothing follows the rule"


FIELDS = [*TrialConfig.model_fields, *(f"phase1.{name}" for name in Phase.model_fields)]


@given(st.sampled_from(FIELDS), st.text() | st.sampled_from(["0", "1", "0.5", "null", "cosine"]))
def test_any_text_is_a_value_or_one_line(field: str, text: str) -> None:
    value, message = outcome(field, text)
    if message:
        assert message.startswith(field)
        assert len(message.splitlines()) == 1
    else:
        config = TrialConfig.from_dict({"augmix": 1, "phase1.epochs": 1, field: value})
        holder = config.phases[0] if field.startswith("phase1.") else config
        assert getattr(holder, field.removeprefix("phase1.")) == value


@pytest.mark.parametrize("name", Phase.model_fields)
def test_a_phase_accepts_the_values_of_the_run(name: str) -> None:
    ours, of_the_run = Phase.model_fields[name], TrialConfig.model_fields[name]
    assert ours.metadata == of_the_run.metadata
    assert ours.annotation == (of_the_run.annotation if name == "epochs" else of_the_run.annotation | None)
    assert ours.description


def outcome(field: str, text: str) -> tuple[object, str]:
    try:
        return parse_value(field, text), ""
    except SpaceError as error:
        return None, str(error)
