from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo.errors import DataError
from hpo.training.batches import batch_count, epoch_batches
from hpo.training.epoch_order import MOST_DRAWS, drawn_labels, draws_by_class, epoch_length, epoch_order
from search_spaces import TrialConfig


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


@given(
    counts=st.lists(st.integers(0, 40), min_size=1, max_size=6).filter(any),
    least=st.integers(1, 60),
    epoch=st.integers(0, 3),
)
def test_oversampling_draws_small_classes_up_to_the_count_and_leaves_no_image_out(
    counts: list[int], least: int, epoch: int
) -> None:
    """A class above the count stays whole, rows of a class differ by one draw at most, an absent class stays absent."""
    labels = np.repeat(np.arange(len(counts)), counts)
    order = epoch_order(labels, balanced=False, seed=3, epoch=epoch, oversample_to=least)
    drawn = np.bincount(labels[order], minlength=len(counts))
    assert drawn.tolist() == [max(count, least) if count else 0 for count in counts]
    times = np.bincount(order, minlength=len(labels))
    for label in np.unique(labels):
        of_class = times[labels == label]
        assert of_class.min() >= 1
        assert of_class.max() - of_class.min() <= 1
    config = TrialConfig(oversample_to=least)
    assert len(order) == epoch_length(labels, config) == len(drawn_labels(labels, config))
    assert np.bincount(drawn_labels(labels, config), minlength=len(counts)).tolist() == drawn.tolist()
    again = epoch_order(labels, balanced=False, seed=3, epoch=epoch, oversample_to=least)
    assert order.tolist() == again.tolist()


def test_an_oversampled_class_differs_from_epoch_to_epoch_in_which_rows_come_again() -> None:
    labels = np.repeat([0, 1], [30, 20])
    again = [
        set(np.flatnonzero(np.bincount(epoch_order(labels, balanced=False, seed=0, epoch=e, oversample_to=30)) == 2))
        for e in range(3)
    ]
    assert all(len(rows) == 10 for rows in again)
    assert again[0] != again[1] != again[2]


def test_without_oversampling_the_order_is_that_of_earlier_versions() -> None:
    """Trials of earlier versions go on from a checkpoint within an epoch."""
    order = epoch_order(np.zeros(8, dtype=np.int64), balanced=False, seed=1, epoch=2)
    assert order.tolist() == epoch_order(np.arange(8) % 2, balanced=False, seed=1, epoch=2, oversample_to=0).tolist()


def test_an_epoch_too_long_to_be_meant_is_refused_in_one_line() -> None:
    with pytest.raises(DataError, match=r"oversample_to is 1000000, so an epoch would have 11,000,000 images, but"):
        draws_by_class([5] * 11, 1_000_000)
    assert draws_by_class([MOST_DRAWS + 1], 0).tolist() == [MOST_DRAWS + 1], "a large data set is no oversampling"
