from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hpo.training.batches import batch_count, epoch_batches, epoch_order


@given(images=st.integers(2, 500), batch_size=st.integers(1, 64))
def test_every_image_is_drawn_once_and_no_batch_has_one_image(images: int, batch_size: int) -> None:
    batches = epoch_batches(np.random.default_rng(0).permutation(images), batch_size)
    sizes = [len(batch) for batch in batches]
    assert sorted(np.concatenate(batches)) == list(range(images))
    assert len(batches) == batch_count(images, batch_size)
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= 2
    assert max(sizes) <= max(batch_size, 3)


def test_an_order_depends_on_seed_and_epoch_alone() -> None:
    labels = np.zeros(50, dtype=np.int64)

    def order(seed: int, epoch: int) -> list[int]:
        return epoch_order(labels, balanced=False, seed=seed, epoch=epoch).tolist()

    assert order(1, 2) == order(1, 2)
    assert order(1, 2) != order(1, 3)
    assert order(1, 2) != order(2, 2)


def test_balanced_sampling_draws_classes_equally_and_uses_every_image() -> None:
    labels = np.repeat([0, 1, 3], [80, 15, 5])
    order = epoch_order(labels, balanced=True, seed=0, epoch=0)
    counts = np.bincount(labels[order], minlength=4)
    assert len(order) == 100
    assert sorted(counts) == [0, 33, 33, 34]
    rare = np.bincount(order, minlength=100)[95:]
    assert rare.max() - rare.min() <= 1
    assert np.bincount(order, minlength=100)[:80].max() == 1
