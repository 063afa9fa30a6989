"""The seed decides a schedule completely."""

from __future__ import annotations

from itertools import pairwise

import pytest

from tests.chaos.campaign import Size
from tests.chaos.schedule import OF_FOLDERS, OF_ISOLATED, OF_S3, Kind, Schedule


def test_the_same_seed_gives_the_same_schedule_and_another_seed_another() -> None:
    assert list(Schedule(7, 300, 8)) == list(Schedule(7, 300, 8))
    assert list(Schedule(7, 300, 8)) != list(Schedule(8, 300, 8))


def test_every_kind_occurs_and_a_reserve_follows() -> None:
    faults = list(Schedule(3, 40, 8))
    assert {fault.kind for fault in faults[:40]} == set(Kind)
    assert len(faults) == 80
    assert all(0 <= fault.due <= 1 and 0 <= fault.slot < 8 and 0 <= fault.strength < 1 for fault in faults)
    assert all(one.due <= other.due for one, other in pairwise(faults))


def test_kinds_that_a_machine_does_not_allow_are_left_out() -> None:
    assert Kind.DISK not in {fault.kind for fault in Schedule(3, 40, 8, frozenset({Kind.DISK}))}


@pytest.mark.parametrize(
    ("isolate", "store", "absent"),
    [
        (2, "folder", OF_S3),
        (2, "s3", OF_FOLDERS),
        (0, "folder", OF_ISOLATED | OF_S3),
        (0, "s3", OF_ISOLATED | OF_FOLDERS),
    ],
)
def test_every_kind_with_a_target_occurs(isolate: int, store: str, absent: frozenset[Kind]) -> None:
    size = Size(workers=4, trials=16, faults=30, seed=3, isolate=isolate, store=store)
    faults = list(Schedule(size.seed, size.faults, size.workers, size.absent))
    assert {fault.kind for fault in faults[:30]} == set(Kind) - absent
