from __future__ import annotations

from itertools import islice

import pytest

from storage.retry import pauses


def test_pauses_double_up_to_the_longest() -> None:
    assert list(islice(pauses(0.1, 2.0, jitter=0), 6)) == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 2.0])
    assert list(islice(pauses(0.3, 0.3, jitter=0), 3)) == [0.3, 0.3, 0.3]
    assert next(pauses(0.2, 0.05, jitter=0)) == 0.05


@pytest.mark.parametrize("jitter", [0.5, 1.0])
def test_the_random_share_of_a_pause_is_the_jitter(jitter: float) -> None:
    drawn = list(islice(pauses(1.0, 1.0, jitter), 200))
    assert all(1 - jitter <= pause <= 1 for pause in drawn)
    assert min(drawn) < 1 - 0.8 * jitter
    assert len(set(drawn)) > 100
