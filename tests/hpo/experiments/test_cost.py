"""What a trial's training cost, and how much of its memory may have been another's."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from optuna.trial import FrozenTrial, TrialState

from hpo.experiments.compared_model import cost_of

START = datetime(2026, 1, 2)  # noqa: DTZ001 - optuna's times are naive


def trial(number: int, worker: str, device: str = "cpu AVX2, 2 threads", **record: object) -> FrozenTrial:
    """Trial `number` of a study, started in the hour of its number."""
    attrs = {"seconds": 6.0, "peak_memory": 10, "device": device, "worker": worker, **record}
    start = START + timedelta(hours=number)
    return FrozenTrial(
        number, TrialState.COMPLETE, 0.5, start, start, {}, {}, attrs, {}, {1: 0.4, 2: 0.5, 3: 0.5}, number
    )


def test_the_cost_of_a_trial_is_read() -> None:
    found = cost_of(trial(0, "host:1", trainable_parameters=7), [])
    assert found is not None
    assert (found.epochs, found.seconds_per_epoch, found.peak_memory, found.trainable_parameters) == (3, 2.0, 10, 7)


@pytest.mark.parametrize(
    ("number", "workers", "shared"),
    [
        (0, ("host:1", "host:1"), False),
        (1, ("host:1", "host:1"), True),
        (1, ("host:1", "host:2"), False),
        (1, ("host:1", "other:1"), False),
    ],
    ids=["the first of its process", "after another", "a process of its own", "another host"],
)
def test_memory_of_a_process_that_trained_other_trials_is_an_upper_bound(
    number: int, workers: tuple[str, ...], shared: bool
) -> None:
    trials = [trial(place, worker) for place, worker in enumerate(workers)]
    found = cost_of(trials[number], trials)
    assert found is not None
    assert found.shared is shared


def test_memory_of_a_gpu_is_that_of_the_trial() -> None:
    trials = [trial(number, "host:1", "NVIDIA H200") for number in range(2)]
    found = cost_of(trials[1], trials)
    assert found is not None
    assert not found.shared
