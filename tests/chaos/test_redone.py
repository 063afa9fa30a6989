"""Repeated epochs, counted from diaries written by hand with four steps an epoch."""

from __future__ import annotations

import pytest

from tests.chaos.ledger import Struck
from tests.chaos.redone import redone
from tests.chaos.steps import Step

KILL = Struck("SIGKILL", at=10.0, pid=1, loses=True)


def _steps(pid: int, start: float, *positions: float | None, trial: int = 0) -> list[Step]:
    return [Step(start + i / 100, pid, trial, position) for i, position in enumerate(positions)]


FIRST = _steps(1, 9.0, None, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)


def test_a_run_that_resumes_at_its_last_step_repeats_nothing() -> None:
    counted = redone([*FIRST, *_steps(2, 11.0, None, 1.75, 2.0)], [KILL], 4)
    assert (counted.total, counted.most, counted.unexplained, counted.faults) == (0.0, 0.0, 0.0, 1)


def test_steps_lost_by_a_kill_are_counted() -> None:
    counted = redone([*FIRST, *_steps(2, 11.0, None, 1.25, 1.5, 1.75)], [KILL], 4)
    assert (counted.total, counted.most, counted.mean) == (0.5, 0.5, 0.5)


def test_faults_before_a_trial_is_claimed_again_share_its_cost() -> None:
    corrupted = Struck("corrupted", at=9.9, pid=1, loses=True)
    counted = redone([*FIRST, *_steps(2, 11.0, None, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)], [corrupted, KILL], 4)
    assert (counted.total, counted.most) == (1.5, 0.75)


def test_more_than_an_epoch_for_one_fault_is_reported() -> None:
    assert redone([*FIRST, *_steps(2, 11.0, None, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)], [KILL], 4).most == 1.5


@pytest.mark.parametrize(
    "fault",
    [
        Struck("SIGTERM", at=10.0, pid=1, loses=False),
        Struck("SIGKILL", at=10.0, pid=3, loses=True),
        Struck("SIGKILL", at=12.0, pid=1, loses=True),
    ],
)
def test_repeated_steps_without_a_fault_are_reported(fault: Struck) -> None:
    elsewhere = _steps(3, 9.5, None, 0.25, trial=5)
    counted = redone([*FIRST, *elsewhere, *_steps(2, 11.0, None, 1.25, 1.5)], [fault], 4)
    assert (counted.unexplained, counted.most) == (0.5, 0.0)


def test_a_fault_of_all_may_cost_every_running_trial() -> None:
    outage = Struck("outage", at=10.0, loses=True)
    other = _steps(3, 9.5, None, 0.25, trial=5)
    again = [*_steps(2, 11.0, None, 1.25, 1.5), *_steps(4, 11.5, None, 0.25, trial=5)]
    counted = redone([*FIRST, *other, *again], [outage], 4)
    assert (counted.total, counted.most, counted.unexplained) == (0.75, 0.5, 0.0)


def test_a_fault_that_lasts_may_cost_a_trial_that_began_meanwhile() -> None:
    late = [*_steps(3, 10.5, None, 0.25, trial=5), *_steps(4, 11.5, None, 0.25, trial=5)]
    assert redone(late, [Struck("disk full", at=10.0, loses=True)], 4).unexplained == 0.25
    assert redone(late, [Struck("disk full", at=10.0, loses=True, lasts=1.0)], 4).unexplained == 0.0


def test_steps_of_a_suspended_worker_are_not_counted_as_progress() -> None:
    slept = Struck("SIGSTOP", at=10.0, pid=1, loses=True)
    successor = _steps(2, 11.0, None, 1.25, 1.5, 1.75)
    awake = [Step(11.005, 1, 0, 1.75), Step(11.015, 1, 0, 2.0)]
    counted = redone(sorted([*FIRST, *successor, *awake], key=lambda step: step.at), [slept], 4)
    assert (counted.total, counted.most) == (0.5, 0.5)


def test_a_step_of_a_suspended_worker_after_the_claim_of_another_is_not_counted_as_lost() -> None:
    slept = Struck("SIGSTOP", at=10.0, pid=1, loses=True)
    claimed, trained = _steps(2, 11.0, None), _steps(2, 14.0, 1.25, 1.5)  # the second worker prepares for seconds
    awake = [Step(12.0, 1, 0, 1.75)]
    counted = redone([*FIRST, *claimed, *awake, *trained], [slept], 4)
    assert (counted.total, counted.most) == (0.5, 0.5)


def test_a_fault_of_a_trial_counts_although_its_worker_has_not_written_to_the_diary_yet() -> None:
    corrupted = Struck("corrupted", at=10.5, pid=7, loses=True, trial=0)
    counted = redone([*FIRST, *_steps(2, 11.0, None, 1.25, 1.5)], [corrupted], 4)
    assert (counted.most, counted.unexplained) == (0.5, 0.0)
