"""Each check of `findings` reports what it should, on diaries and exits written by hand."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.chaos.crew import Exit
from tests.chaos.findings import attempts_by, unwritten, wrong_exits
from tests.chaos.ledger import Struck
from tests.chaos.steps import Step
from tests.chaos.verify import Curve

STEPS = [Step(1.0, 10, 0, None), Step(1.1, 10, 0, 0.5), Step(1.2, 10, 0, 1.0), Step(1.3, 10, 0, 2.0)]
AWAY = Struck("object store refuses connections", at=100.0, lasts=10.0)


def _curve(*epochs: int) -> Curve:
    return Curve(0, "COMPLETE", 0.5, {}, dict.fromkeys(epochs, 0.5))


def test_epochs_that_a_process_without_a_diary_trained_are_found() -> None:
    assert unwritten([_curve(1, 2)], STEPS) == []
    (found,) = unwritten([_curve(1, 2, 3)], STEPS)
    assert "epochs [3]" in found


def test_only_trials_claimed_by_a_process_of_their_own_are_counted() -> None:
    assert attempts_by(STEPS, {10: 9}) == 1
    assert attempts_by(STEPS, {11: 9}) == 0


def _exit(*, pid: int = 1, code: int = 0, at: float = 105.0, leaving: float | None = None) -> Exit:
    return Exit(pid, code, lived=3.0, leaving=leaving, killed=False, at=at)


@pytest.mark.parametrize(
    ("ended", "outages", "wrong"),
    [
        (_exit(), [], False),
        (_exit(code=1), [AWAY], True),
        (_exit(code=2), [], True),
        (_exit(code=2), [AWAY], False),
        (_exit(code=2, at=120.0), [AWAY], True),
        (_exit(code=2, pid=10), [AWAY], True),
        (_exit(leaving=9.0), [], False),
        (_exit(leaving=12.0), [], True),
        (_exit(leaving=12.0), [AWAY], False),
        (_exit(leaving=12.0, at=123.0), [AWAY], True),
    ],
)
def test_only_exits_during_an_outage_of_the_object_store_are_excused(
    ended: Exit, outages: Sequence[Struck], wrong: bool
) -> None:
    """Worker 10 has trained a trial, so it has to wait for the store and may not end with 2."""
    found, notes = wrong_exits([ended], outages, {10})
    assert bool(found) == wrong
    assert bool(notes) == (not wrong and (ended.code == 2 or ended.late))
