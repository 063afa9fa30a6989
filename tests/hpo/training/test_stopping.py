from __future__ import annotations

import pytest

from hpo.training.stopping import Chance, Guard, collapse_reason

CHANCE = Chance(majority=0.2, images=500)


def run(*epochs: tuple[float, int]) -> str | None:
    """Return the reason for which a run of (accuracy, predicted classes) ends, or None."""
    guard = Guard()
    for accuracy, predicted in epochs:
        guard = guard.after(accuracy, predicted=predicted)
        reason = collapse_reason(guard, CHANCE, accuracy)
        if reason:
            return reason
    return None


def test_a_slow_starter_continues() -> None:
    assert run(*[(0.2, 1)] * 20, (0.25, 2), (0.2, 1), (0.2, 1)) is None


def test_an_unsteady_run_continues() -> None:
    assert run((0.6, 5), (0.35, 3), (0.7, 5), (0.4, 2), (0.8, 5)) is None


def test_a_fall_to_chance_ends_the_run_with_the_former_accuracy_in_the_message() -> None:
    reason = run((0.5, 5), (0.9, 5), (0.2, 4))
    assert reason == "collapsed: validation accuracy fell from 0.900 to 0.200, the level of chance (0.200)"


def test_a_fall_below_the_majority_counts_as_chance() -> None:
    assert "fell" in (run((0.9, 5), (0.1, 4)) or "")


def test_a_single_class_counts_from_the_second_consecutive_epoch() -> None:
    assert run((0.9, 5), (0.3, 1)) is None
    assert run((0.9, 5), (0.3, 1), (0.3, 2), (0.3, 1)) is None
    assert "one single class" in (run((0.9, 5), (0.3, 1), (0.3, 1)) or "")


def test_random_success_on_few_images_is_not_clearly_above_chance() -> None:
    few = Chance(majority=0.5, images=10)
    guard = Guard().after(0.8, predicted=2).after(0.5, predicted=1)
    assert collapse_reason(guard, few, 0.5) is None


@pytest.mark.parametrize("guard", [Guard(), Guard(best=0.75, single=1)])
def test_a_guard_survives_json(guard: Guard) -> None:
    assert Guard(**guard.to_dict()) == guard
