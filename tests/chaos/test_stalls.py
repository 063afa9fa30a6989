"""Stalls of the machine are told from the ordinary delays of a thread."""

from __future__ import annotations

import pytest

from tests.chaos.stalls import StallWatch


@pytest.mark.parametrize(("gap", "stalls"), [(0.1, 0), (1.0, 0), (9.0, 1)])
def test_a_tick_that_is_late_by_more_than_a_second_is_a_stall(gap: float, stalls: int) -> None:
    watch = StallWatch()
    watch.note(100.0, 100.0 + gap)
    assert [(stall.at, stall.lasts, stall.loses) for stall in watch.stalls] == [(100.0, gap, True)] * stalls
    assert len(watch.notes()) == stalls
