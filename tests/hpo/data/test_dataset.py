from __future__ import annotations

import numpy as np
import pytest

from hpo.data.dataset import Part, rows_in_order


@pytest.mark.parametrize(("count", "sizes"), [(0, []), (5, [2, 2, 1]), (4, [2, 2])])
def test_rows_are_in_order(count: int, sizes: list[int]) -> None:
    rows = rows_in_order(count, 2)
    assert [len(part) for part in rows] == sizes
    assert [int(row) for part in rows for row in part] == list(range(count))


def test_batches_are_copies_in_order_and_progress_follows_each() -> None:
    images = np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1).repeat(3, axis=3)
    part = Part(images, np.array([5, 0, 3, 1, 2]), np.zeros(5, np.int64), list("abcde"))
    counts: list[tuple[int, int]] = []
    batches = []
    for batch in part.batches(2, lambda done, total: counts.append((done, total))):
        batches.append(batch.copy())
        batch[:] = 0
        assert len(counts) == len(batches) - 1, "progress is called after the consumer has finished a batch"
    assert [batch[:, 0, 0, 0].tolist() for batch in batches] == [[5, 0], [3, 1], [2]]
    assert counts == [(2, 5), (4, 5), (5, 5)]
    assert images[5, 0, 0, 0] == 5
