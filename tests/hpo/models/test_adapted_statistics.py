"""Statistics mixed from trained and new ones: against the formula, and on images whose shift is known."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hpo.models.adapted_statistics import adapt_statistics, normalised_by_statistics
from hpo.models.normalisation import FrozenBatchNorm


def network(frozen: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    made = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5))
    made.train()(torch.randn(64, 3, 12, 12))
    if frozen:
        for place in (1, 4):
            norm = made[place]
            assert isinstance(norm, nn.BatchNorm2d)
            made[place] = FrozenBatchNorm(norm)
    return made.eval()


@pytest.mark.parametrize("frozen", [False, True])
def test_the_first_layer_has_the_mixture_of_the_paper(frozen: bool) -> None:
    made, images = network(frozen), 3 + 2 * torch.randn(8, 3, 12, 12)
    before = {name: value.clone() for name, value in made.state_dict().items()}
    seen = made[0](images).detach()
    change = adapt_statistics(made, [images], 8, prior=24)
    assert (change.layers, change.share, change.layer) == (2, 0.25, "1")
    mean, var = seen.mean((0, 2, 3)), seen.var((0, 2, 3), unbiased=False)
    after = made.state_dict()
    torch.testing.assert_close(after["1.running_mean"], 0.75 * before["1.running_mean"] + 0.25 * mean)
    torch.testing.assert_close(after["1.running_var"], 0.75 * before["1.running_var"] + 0.25 * var)
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert moved == {"1.running_mean", "1.running_var", "4.running_mean", "4.running_var"}


def test_without_a_prior_one_batch_is_normalised_as_in_training() -> None:
    made, images = network(), 1 - 3 * torch.randn(16, 3, 12, 12)
    expected = network().train()(images)
    change = adapt_statistics(made, [images], 16, prior=0)
    torch.testing.assert_close(made(images), expected, rtol=1e-4, atol=1e-5)
    assert change.shift > 0.1
    assert change.spread > 1.5
    assert not made.training


def test_batches_of_any_size_give_nearly_the_statistics_of_all() -> None:
    images = 1 + torch.randn(64, 3, 12, 12)
    whole, parts = network(), network()
    adapt_statistics(whole, [images], 64)
    adapt_statistics(parts, images.split([10, 30, 24]), 64)
    first = [(one[1].running_mean, one[1].running_var) for one in (whole, parts)]
    torch.testing.assert_close(first[0], first[1])
    torch.testing.assert_close(whole(images), parts(images), rtol=0.2, atol=0.1)


def test_no_hook_stays_and_a_second_pass_changes_nothing() -> None:
    made = network()
    adapt_statistics(made, [torch.randn(4, 3, 12, 12)], 4)
    before = {name: value.clone() for name, value in made.state_dict().items()}
    made(torch.randn(4, 3, 12, 12))
    assert all(torch.equal(value, before[name]) for name, value in made.state_dict().items())


def test_layers_without_statistics_are_not_counted() -> None:
    assert normalised_by_statistics(nn.Sequential(nn.GroupNorm(1, 3), nn.LayerNorm(3))) == {}
    assert normalised_by_statistics(nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False))) == {}
    assert list(normalised_by_statistics(network())) == ["1", "4"]
