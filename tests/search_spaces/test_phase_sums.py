"""Spaces with phases: their fields are fields like all others, and the epochs agree."""

from __future__ import annotations

from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces import Choice, Float, Int, SearchSpace, SpaceError, check_given
from tests.search_spaces.strategies import DrawnTrial, spaces, trials

LION, OTHERS = {"phase2.optimiser": ("lion",)}, {"phase2.optimiser": (None, "adamw")}


@pytest.fixture
def space() -> SearchSpace:
    """Head first, then deeper: a range, variants by the optimiser of the second phase, and a point."""
    return SearchSpace(
        "two-phase",
        seed="002",
        fixed={
            "phase2.epochs": 20, "phase1.epochs": 5, "phase1.unfreeze_depth": 0, "phase1.schedule": "plateau",
            "optimiser": "adamw",
        },
        dimensions={
            "phase2.weight_decay": (Float(0.01, 1, log=True, when=LION), Float(0.001, 0.3, log=True, when=OTHERS)),
            "phase2.optimiser": (Choice(("adamw", "lion", None)),),
            "phase2.unfreeze_depth": (Float(0.1, 1, step=0.1),),
            "dropout": (Float(0, 0.5),),
        },
        points=({"phase2.optimiser": "lion", "phase2.weight_decay": 0.5, "phase2.unfreeze_depth": 0.4, "dropout": 0},),
    )  # fmt: skip


def epochs(space: SearchSpace) -> tuple[int, list[int]]:
    """Those of the run and those of its phases."""
    config = space.largest()
    return config.epochs, [phase.epochs for phase in config.phases]


def test_the_fields_of_phases_come_after_those_of_the_run_phase_by_phase(space: SearchSpace) -> None:
    assert list(space.fixed) == [
        "epochs", "optimiser", "symmetry", "phase1.epochs", "phase1.unfreeze_depth", "phase1.schedule", "phase2.epochs",
    ]  # fmt: skip
    assert space.open == ("dropout", "phase2.unfreeze_depth", "phase2.optimiser", "phase2.weight_decay")
    assert space.phases == (1, 2)


def test_optuna_sees_flat_names_and_the_configuration_phases(space: SearchSpace) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for params in space.enqueue_points():
        study.enqueue_trial(params)
    trial = study.ask()
    config = space.suggest(trial)
    assert trial.params == {
        "dropout": 0.0,
        "phase2.unfreeze_depth": 0.4,
        "phase2.optimiser": "lion",
        "phase2.weight_decay[lion]": 0.5,
    }
    first, second = config.phase_configs()
    assert (first.unfreeze_depth, first.schedule, first.optimiser, first.epochs) == (0, "plateau", "adamw", 5)
    assert (second.unfreeze_depth, second.weight_decay, second.optimiser, second.epochs) == (0.4, 0.5, "lion", 20)
    assert space.config(trial.params) == config
    assert space.searched(trial.params)["phase2.weight_decay"] == 0.5


@given(spaces(), trials())
def test_every_trial_is_valid_and_its_epochs_are_those_of_its_phases(space: SearchSpace, trial: DrawnTrial) -> None:
    config = space.suggest(trial)
    assert len(config.phases) == max(space.phases, default=0)
    if config.phases:
        assert sum(phase.epochs for phase in config.phases) == config.epochs
    assert config.epochs in space.values("epochs")


def test_none_inherits_from_the_run(space: SearchSpace) -> None:
    narrow = space.with_fixed({"phase2.optimiser": None, "phase1.schedule": None})
    first, second = narrow.largest().phase_configs()
    assert (first.schedule, second.optimiser, second.weight_decay) == ("cosine", "adamw", 0.3)
    assert narrow.open == ("dropout", "phase2.unfreeze_depth", "phase2.weight_decay")


def test_a_phase_may_depend_on_another_phase(space: SearchSpace) -> None:
    child = space.extended({}, {"restarts": (Int(1, 4, when={"phase2.optimiser": ("lion",)}),)})
    assert child.open.index("phase2.optimiser") < child.open.index("restarts")
    assert "restarts" not in child.with_fixed({"phase2.optimiser": "adamw"}).open


def test_the_sum_of_the_phases_is_fixed_and_follows_them(space: SearchSpace) -> None:
    assert space.fixed["epochs"] == 25
    longer = space.with_fixed({"phase1.epochs": 10})
    assert epochs(longer) == (30, [10, 20])
    assert epochs(space.with_fixed({"phase3.epochs": 5})) == (30, [5, 20, 5])
    opened = space.extended({}, {"phase1.epochs": (Int(1, 3),)})
    assert "epochs" not in opened.fixed
    assert opened.values("epochs") == [21, 22, 23]


def test_given_epochs_stay_and_the_phases_are_shares_of_them(space: SearchSpace) -> None:
    short = space.with_fixed({"epochs": 5})
    assert epochs(short) == (5, [1, 4])
    assert epochs(short.with_fixed({"epochs": 50})) == (50, [10, 40])
    assert epochs(short.with_fixed({"phase1.epochs": 80})) == (5, [4, 1])
    assert epochs(space.with_fixed({"epochs": 4, "phase1.epochs": 20})) == (4, [2, 2])


def test_a_sum_that_is_written_is_the_space_where_it_is_not(space: SearchSpace) -> None:
    written = SearchSpace("other", fixed={**space.fixed, "epochs": 25}, dimensions=space.dimensions)
    assert written.fingerprint == space.fingerprint
    assert space.with_fixed({"phase2.epochs": 21}).fingerprint != space.fingerprint


def test_open_epochs_are_not_overwritten_by_the_sum() -> None:
    opened = SearchSpace("any", fixed={"phase1.epochs": 1, "phase2.epochs": 3}, dimensions={"epochs": (Int(4, 8),)})
    assert opened.values("epochs") == [4, 5, 6, 7, 8]
    assert "epochs" not in opened.fixed


def test_phases_that_exist_in_some_trials_only() -> None:
    when = {"unfreezing": ("gradual",)}
    space = SearchSpace(
        "sometimes",
        fixed={"phase1.epochs": 2},
        dimensions={"unfreezing": (Choice(("at-once", "gradual")),), "phase2.epochs": (Choice((3, 6), when=when),)},
    )
    assert space.values("epochs") == [2, 5, 8]
    assert space.values("phase2.epochs") == [None, 3, 6]
    assert len(space.with_fixed({"unfreezing": "at-once"}).largest().phases) == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 1}, "epochs is 1, but must be at least 2: one for each phase"),
        ({"phase4.epochs": 1}, "phase3.epochs is missing, but every phase up to the last has its epochs"),
        ({"phase3.learning_rate": 1e-3}, "phase3.epochs is missing"),
        ({"phase2.learning_rat": 1e-3}, "phase2.learning_rat: no such key; did you mean phase2.learning_rate?"),
        ({"phases": ()}, "phases: no such key; give the fields of each phase, as phase1.epochs"),
        ({"phase2.optimiser": "sgd"}, "phase2.optimiser is 'sgd', which the space does not try, so it has no phase2.w"),
        ({"augmix_consistency": 12}, "augmix_consistency needs augmix > 0"),
        ({"phase1.epochs": 9990}, "epochs is 10010, but must be less than or equal to 10000"),
    ],
)
def test_fixing_refuses_values_that_no_trial_could_have(
    space: SearchSpace, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(SpaceError) as caught:
        space.with_fixed(values)
    assert str(caught.value).startswith(message)
    assert len(str(caught.value).splitlines()) == 1


@given(st.integers(1, 99), st.integers(1, 99))
def test_any_number_of_phases_up_to_99(phases: int, more: int) -> None:
    space = SearchSpace("many", fixed={f"phase{n}.epochs": n for n in range(phases, 0, -1)})
    assert space.phases == tuple(range(1, phases + 1))
    assert space.fixed["epochs"] == phases * (phases + 1) // 2
    assert epochs(space.with_fixed({"epochs": phases + more}))[0] == phases + more


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ({"learning_rate": 0.5}, "learning_rate would change nothing, as every phase has its own; give phase1"),
        ({"epochs": 10, "phase1.epochs": 5}, r"phase1.epochs is 5, but of 10 epochs its share is 2"),
    ],
)
def test_a_value_that_every_phase_overrides_is_refused(values: dict[str, Any], rule: str) -> None:
    rates = {"phase1.learning_rate": 1e-3, "phase2.learning_rate": 1e-4}
    two = SearchSpace("two", fixed={"phase1.epochs": 5, "phase2.epochs": 20, **rates})
    with pytest.raises(SpaceError, match=rule):
        check_given(values, two.with_fixed(values).fixed, ())
    for taken in ({"epochs": 10}, {"epochs": 10, "phase1.epochs": 4, "phase2.epochs": 6}, {"weight_decay": 0.2}):
        check_given(taken, two.with_fixed(taken).fixed, ())
