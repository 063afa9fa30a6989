"""TrialConfig: frozen, typed, and through one door."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from search_spaces import SpaceError, TrialConfig


@given(st.builds(TrialConfig))
def test_a_configuration_survives_the_way_through_json(config: TrialConfig) -> None:
    assert TrialConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_every_field_has_a_description() -> None:
    assert all(field.description for field in TrialConfig.model_fields.values())


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        TrialConfig().epochs = 3
    assert TrialConfig().replace(epochs=3).epochs == 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 0}, "cells.json: epochs is 0, but must be greater than or equal to 1"),
        ({"epoch": 1}, "cells.json: epoch: no such key; the keys are backbone, "),
        ({"loss": "balanced-softmax", "balanced_sampling": True}, "cells.json: loss balanced-softmax excludes"),
        ({"oversample_to": 9, "balanced_sampling": True}, "cells.json: oversample_to excludes balanced_sampling: each"),
        ({"oversample_to": -1}, "cells.json: oversample_to is -1, but must be greater than or equal to 0"),
        ({"oversample_to": 10**7}, "cells.json: oversample_to is 10000000, but must be less than or equal to 1000000"),
        ({"normalisation": "frozen-batch", "pretrained": False}, "cells.json: normalisation frozen-batch needs"),
        ({"loss": "l2"}, "cells.json: loss is 'l2', but must be 'cross-entropy', 'focal' or 'balanced-softmax'"),
    ],
)
def test_a_broken_rule_names_source_key_and_value(values: dict[str, object], message: str) -> None:
    with pytest.raises(SpaceError) as caught:
        TrialConfig.from_dict(values, source="cells.json")
    assert str(caught.value).startswith(message)
    assert caught.value.source == "cells.json"


def test_a_configuration_stored_before_symmetry_was_a_field_is_read_as_it_was_meant() -> None:
    stored = {key: value for key, value in TrialConfig(augmentation="geometric").to_dict().items() if key != "symmetry"}
    assert TrialConfig.from_stored(stored).symmetry == "dihedral"
    for config in (TrialConfig(), TrialConfig(symmetry="mirror"), TrialConfig(symmetry="dihedral")):
        assert TrialConfig.from_stored(config.to_dict()) == config
