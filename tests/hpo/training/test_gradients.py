from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from hpo.models import build_model
from hpo.training.gradients import BatchStatistics
from search_spaces import TrialConfig

Make = Callable[..., TrialConfig]


def statistics_of(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in network.named_buffers()}


def test_a_forward_pass_is_undone(config: Make) -> None:
    network = build_model(config(), 3).model
    statistics = BatchStatistics(network)
    network(torch.randn(4, 3, 32, 32))
    statistics.keep()
    before = statistics_of(network)
    network(torch.randn(4, 3, 32, 32))
    assert not any(torch.equal(value, before[name]) for name, value in network.named_buffers())
    statistics.restore()
    assert all(torch.equal(value, before[name]) for name, value in network.named_buffers())


@pytest.mark.parametrize(
    ("changes", "present"),
    [
        ({}, True),
        ({"unfreeze_depth": 0.4}, True),
        ({"unfreeze_depth": 0.0}, False),
        ({"backbone": "test_convnext"}, False),
    ],
)
def test_only_batchnorm_that_trains_has_statistics(config: Make, changes: dict[str, object], present: bool) -> None:
    assert BatchStatistics(build_model(config(**changes), 3).model).present is present


def test_pieces_move_the_statistics_as_far_as_the_batch() -> None:
    torch.manual_seed(0)
    whole, cut = nn.BatchNorm1d(5), nn.BatchNorm1d(5)
    for _ in range(60):
        batch = 2 * torch.randn(64, 5) + 3
        whole(batch)
        with BatchStatistics(cut).over(8):
            for piece in batch.tensor_split(8):
                cut(piece)
    assert cut.momentum == whole.momentum == 0.1
    torch.testing.assert_close(cut.running_mean, whole.running_mean, rtol=0, atol=0.05)
    torch.testing.assert_close(cut.running_var, whole.running_var, rtol=0.06, atol=0)


def test_the_momentum_is_restored_after_an_error() -> None:
    norm, inside = nn.BatchNorm1d(5), []

    def fail() -> None:
        with BatchStatistics(norm).over(4):
            inside.append(norm.momentum)
            raise MemoryError

    with pytest.raises(MemoryError):
        fail()
    assert (inside, norm.momentum) == ([pytest.approx(1 - 0.9**0.25)], 0.1)


def test_a_cumulative_average_stays_one() -> None:
    norm = nn.BatchNorm1d(5, momentum=None)
    with BatchStatistics(norm).over(4):
        assert norm.momentum is None
