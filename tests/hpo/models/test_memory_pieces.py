from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hpo.models.memory import in_pieces, largest_piece, piece_count, run_with_fewer

pytestmark = pytest.mark.usefixtures("short_collections")

CPU = torch.device("cpu")
BATCHES = [torch.arange(10.0), torch.arange(10.0, 17.0)]


class Limited:
    """Doubles at most `most` values at a time."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.tried: list[int] = []

    def __call__(self, values: Tensor) -> Tensor:
        self.tried.append(len(values))
        if len(values) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return 2 * values


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 2))
def test_pieces_are_as_few_as_fit_and_none_too_small(images: int, most: int, fewest: int) -> None:
    count = piece_count(images, most, fewest)
    sizes = [len(piece) for piece in torch.arange(images).tensor_split(count)]
    assert max(sizes) == largest_piece(images, most, fewest)
    assert min(sizes) >= min(fewest, images)
    if most >= 3 or fewest == 1:
        assert max(sizes) <= most
    assert count == 1 or -(-images // (count - 1)) > most


def test_without_a_limit_a_batch_is_whole() -> None:
    assert piece_count(300, None, 1) == 1
    assert largest_piece(300, None, 2) == 300


@pytest.mark.parametrize(
    ("most", "tried"), [(10, [10, 7]), (5, [10, 5, 5, 5, 2]), (2, [10, 5, 3, *[2] * 5, *[2] * 3, 1])]
)
def test_pieces_are_computed_in_order_and_a_size_that_failed_is_not_tried_again(most: int, tried: list[int]) -> None:
    forward = Limited(most)
    assert torch.cat(list(in_pieces(forward, BATCHES))).tolist() == [2.0 * value for value in range(17)]
    assert forward.tried == tried


def test_batches_that_fit_are_computed_whole() -> None:
    assert [len(output) for output in in_pieces(Limited(99), BATCHES)] == [10, 7]
    assert list(in_pieces(Limited(99), [])) == []


def test_memory_error_if_not_even_one_image_fits() -> None:
    with pytest.raises(MemoryError, match="CUDA out of memory"):
        list(in_pieces(Limited(0), BATCHES))


def test_an_action_is_repeated_with_fewer_images_until_it_succeeds() -> None:
    forward = Limited(4)
    assert run_with_fewer(lambda count: len(forward(torch.ones(count))), 20, 2, CPU) == 3
    assert forward.tried == [20, 10, 5, 3]
    with pytest.raises(MemoryError, match="CUDA out of memory"):
        run_with_fewer(lambda count: Limited(1)(torch.ones(count)), 20, 2, CPU)
