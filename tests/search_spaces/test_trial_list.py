"""A trial_list: one trial per entry, each with the configuration and the seed that it names."""

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


def trial_list(*entries: PlannedTrial) -> TrialList:
    return TrialList(
        "compared", "two runs", entries or (PlannedTrial("cnn", CNN), PlannedTrial("tuned", TUNED, seed=3))
    )


def test_a_study_over_it_runs_each_entry_once() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for point in trial_list().enqueue_points():
        study.enqueue_trial(point)
    trials = [study.ask() for _ in trial_list().entries]
    assert [trial_list().suggest(trial) for trial in trials] == [CNN, TUNED]
    assert [trial_seed(trial_list(), trial.params, trial.number) for trial in trials] == [0, 3]
    assert trial_list().config(trials[1].params) == TUNED


def test_it_is_read_back_as_it_was() -> None:
    assert read_space(trial_list().to_dict()) == trial_list()


def test_a_space_is_read_back_as_a_space() -> None:
    space = SearchSpace("own", fixed={"epochs": 3})
    assert read_space(space.to_dict()) == space
    assert trial_seed(space, {}, 7) == 7
    assert with_weights(space, "/there").fixed["weights"] == "/there"


def test_common_values_and_the_weights_are_fixed() -> None:
    assert trial_list().fixed["epochs"] == 2
    assert "pretrained" not in trial_list().fixed
    assert trial_list().fixed["weights"] == "/here/resnet18.safetensors"
    assert trial_list().values("backbone") == ["resnet18"]
    assert trial_list().values("pretrained") == [False, True]


def test_weights_that_lie_elsewhere_are_the_same_question() -> None:
    moved = with_weights(trial_list(), "/there/resnet18.safetensors")
    assert moved.fixed["weights"] == "/there/resnet18.safetensors"
    assert moved.values("pretrained") == [False, True]
    assert moved.fingerprint == trial_list().fingerprint


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
    assert trial_list(other).fingerprint != trial_list(PlannedTrial("cnn", CNN)).fingerprint


@pytest.mark.parametrize(
    ("entries", "rule"),
    [
        ((PlannedTrial("a", CNN), PlannedTrial("a", TUNED)), "'a' stands there 2 times"),
        ((PlannedTrial("a", TUNED), PlannedTrial("b", TUNED.replace(weights="/other"))), "2 files of weights"),
    ],
)
def test_indistinguishable_planned_trials_are_refused(entries: tuple[PlannedTrial, ...], rule: str) -> None:
    with pytest.raises(SpaceError, match=rule):
        trial_list(*entries)


def test_an_empty_trial_list_is_refused() -> None:
    with pytest.raises(SpaceError, match="at least one run"):
        TrialList("none", "", ())


def test_runs_stored_before_symmetry_was_a_field_are_read_as_they_were_meant() -> None:
    stored = trial_list().to_dict()
    for entry in stored["entries"]:
        del entry["config"]["symmetry"]
    assert {entry.config.symmetry for entry in TrialList.from_dict(stored).entries} == {"dihedral"}
    turned = trial_list(
        *(PlannedTrial(e.name, e.config.replace(symmetry="dihedral"), e.seed) for e in trial_list().entries)
    )
    assert TrialList.from_dict(stored).fingerprint == turned.fingerprint != trial_list().fingerprint
