"""Epochs shared out between phases."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces import Phase, SpaceError, TrialConfig
from search_spaces.config import apportioned, folded

SHARES = st.lists(st.integers(1, 1000), min_size=1, max_size=8)


@given(SHARES, st.integers(0, 10_000))
def test_apportioned_epochs_add_up_and_every_phase_has_one(shares: list[int], more: int) -> None:
    total = len(shares) + more
    parts = apportioned(total, shares)
    assert sum(parts) == total
    assert min(parts) >= 1
    assert len(parts) == len(shares)


@given(SHARES)
def test_shares_that_add_up_stay_as_they_are(shares: list[int]) -> None:
    assert apportioned(sum(shares), shares) == shares


@given(SHARES, st.integers(1, 20))
def test_a_multiple_is_shared_out_exactly(shares: list[int], factor: int) -> None:
    assert apportioned(factor * sum(shares), shares) == [factor * share for share in shares]


@given(SHARES, st.integers(0, 10_000))
def test_no_phase_is_further_from_its_proportion_than_one_epoch_unless_others_need_their_first(
    shares: list[int], more: int
) -> None:
    total = len(shares) + more
    exact = [total * share / sum(shares) for share in shares]
    parts = apportioned(total, shares)
    if min(exact) >= 1:
        assert all(abs(part - wanted) < 1 for part, wanted in zip(parts, exact, strict=True))
    assert all(part < wanted + 1 for part, wanted in zip(parts, exact, strict=True) if part > 1)


@given(SHARES, st.integers(0, 1000))
def test_a_configuration_scales_its_phases_to_its_epochs_and_stays_so(shares: list[int], more: int) -> None:
    given_epochs = {f"phase{number}.epochs": share for number, share in enumerate(shares, start=1)}
    total = len(shares) + more
    config = TrialConfig.from_dict({**given_epochs, "epochs": total})
    assert [phase.epochs for phase in config.phases] == apportioned(total, shares)
    assert TrialConfig.from_dict(config.to_dict()) == config
    assert sum(phase.epochs for phase in config.phase_configs()) == config.epochs == total


def test_without_epochs_a_run_has_those_of_its_phases() -> None:
    config = TrialConfig.from_dict({"phase1.epochs": 2, "phase2.epochs": 9, "phase2.learning_rate": 1e-4})
    assert config.epochs == 11
    assert config.phases == (Phase(epochs=2), Phase(epochs=9, learning_rate=1e-4))
    assert [c.learning_rate for c in config.phase_configs()] == [config.learning_rate, 1e-4]


def test_keys_of_phases_fold_into_the_existing_list() -> None:
    values = {"epochs": 3, "phases": [{"epochs": 1}], "phase1.warmup": 0.1, "phase2.epochs": 2}
    assert folded(values) == {"epochs": 3, "phases": [{"epochs": 1, "warmup": 0.1}, {"epochs": 2}]}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"phase2.epochs": 1}, "phase1.epochs is missing, but every phase up to the last has its epochs"),
        ({"phase1.warmup": 0.1}, "phase1.epochs is missing"),
        ({"phase1.epochs": 3, "phase2.epochs": 3, "epochs": 1}, "epochs is 1, but must be at least 2"),
        ({"phase1.epochs": 3, "phase1.learning_rate": 0}, "phase1.learning_rate is 0, but must be greater than 0"),
    ],
)
def test_a_configuration_refuses_invalid_phases(values: dict[str, object], message: str) -> None:
    with pytest.raises(SpaceError) as caught:
        TrialConfig.from_dict(values)
    assert str(caught.value).startswith(message)


def test_epochs_as_text_are_summed_and_scaled_like_numbers() -> None:
    assert TrialConfig.from_dict({"phase1.epochs": "3", "phase2.epochs": 1.0}).epochs == 4
    scaled = TrialConfig.from_dict({"phase1.epochs": "3", "phase2.epochs": "1", "epochs": "8"})
    assert [phase.epochs for phase in scaled.phases] == [6, 2]


@pytest.mark.parametrize("epochs", ["many", 1.5, 0, None])
def test_epochs_that_are_no_whole_number_are_refused(epochs: object) -> None:
    with pytest.raises(SpaceError, match=r"phase1\.epochs"):
        TrialConfig.from_dict({"phase1.epochs": epochs})
