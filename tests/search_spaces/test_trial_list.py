"""A roster: one trial per entry, each with the configuration and the seed that it names."""

from __future__ import annotations

import optuna
import pytest

from search_spaces import (
    PlannedTrial,
    SearchSpace,
    SpaceError,
    TrialConfig,
    TrialList,
    read_space,
    trial_seed,
    with_weights,
)

CNN = TrialConfig.from_dict({"backbone": "resnet18", "pretrained": False, "epochs": 2})
TUNED = TrialConfig.from_dict({"backbone": "resnet18", "weights": "/here/resnet18.safetensors", "epochs": 2})


def roster(*entries: PlannedTrial) -> TrialList:
    return TrialList(
        "compared", "two runs", entries or (PlannedTrial("cnn", CNN), PlannedTrial("tuned", TUNED, seed=3))
    )


def test_a_study_over_it_runs_each_entry_once() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for point in roster().enqueue_points():
        study.enqueue_trial(point)
    trials = [study.ask() for _ in roster().entries]
    assert [roster().suggest(trial) for trial in trials] == [CNN, TUNED]
    assert [trial_seed(roster(), trial.params, trial.number) for trial in trials] == [0, 3]
    assert roster().config(trials[1].params) == TUNED


def test_it_is_read_back_as_it_was() -> None:
    assert read_space(roster().to_dict()) == roster()


def test_a_space_is_read_back_as_a_space() -> None:
    space = SearchSpace("own", fixed={"epochs": 3})
    assert read_space(space.to_dict()) == space
    assert trial_seed(space, {}, 7) == 7
    assert with_weights(space, "/there").fixed["weights"] == "/there"


def test_what_all_have_in_common_is_fixed_and_the_weights_of_any() -> None:
    assert roster().fixed["epochs"] == 2
    assert "pretrained" not in roster().fixed
    assert roster().fixed["weights"] == "/here/resnet18.safetensors"
    assert roster().values("backbone") == ["resnet18"]
    assert roster().values("pretrained") == [False, True]


def test_weights_that_lie_elsewhere_are_the_same_question() -> None:
    moved = with_weights(roster(), "/there/resnet18.safetensors")
    assert moved.fixed["weights"] == "/there/resnet18.safetensors"
    assert moved.values("pretrained") == [False, True]
    assert moved.fingerprint == roster().fingerprint


@pytest.mark.parametrize(
    "other",
    [
        PlannedTrial("cnn", CNN, seed=1),
        PlannedTrial("other", CNN),
        PlannedTrial("cnn", CNN.replace(epochs=3)),
        PlannedTrial("cnn", TUNED),
    ],
)
def test_another_run_is_another_question(other: PlannedTrial) -> None:
    assert roster(other).fingerprint != roster(PlannedTrial("cnn", CNN)).fingerprint


@pytest.mark.parametrize(
    ("entries", "rule"),
    [
        ((PlannedTrial("a", CNN), PlannedTrial("a", TUNED)), "'a' stands there 2 times"),
        ((PlannedTrial("a", TUNED), PlannedTrial("b", TUNED.replace(weights="/other"))), "2 files of weights"),
    ],
)
def test_what_cannot_be_told_apart_is_refused(entries: tuple[PlannedTrial, ...], rule: str) -> None:
    with pytest.raises(SpaceError, match=rule):
        roster(*entries)


def test_an_empty_roster_is_refused() -> None:
    with pytest.raises(SpaceError, match="at least one run"):
        TrialList("none", "", ())


def test_runs_stored_before_symmetry_was_a_field_are_read_as_they_were_meant() -> None:
    stored = roster().to_dict()
    for entry in stored["entries"]:
        del entry["config"]["symmetry"]
    assert {entry.config.symmetry for entry in TrialList.from_dict(stored).entries} == {"dihedral"}
    turned = roster(*(PlannedTrial(e.name, e.config.replace(symmetry="dihedral"), e.seed) for e in roster().entries))
    assert TrialList.from_dict(stored).fingerprint == turned.fingerprint != roster().fingerprint
