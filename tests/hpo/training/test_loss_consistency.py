from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from hpo.models.compute_format import ComputeFormat, Normaliser
from hpo.training.loss import ClassificationLoss, ConsistencyLoss, OverViews, jensen_shannon

LABELS = torch.tensor([0, 2, 1, 2, 2])


@pytest.fixture
def logits() -> torch.Tensor:
    return 3 * torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0))


def test_the_divergence_equals_the_authors_code(logits: torch.Tensor) -> None:
    """As in the code that Hendrycks et al. 2020 published: a mixture, and KL of torch from each view to it."""
    views = logits.softmax(dim=2).unbind(dim=1)
    mixture = (sum(views) / 3).clamp(1e-7, 1).log()
    expected = sum(functional.kl_div(mixture, view, reduction="batchmean") for view in views) / 3
    torch.testing.assert_close(jensen_shannon(logits), expected)


def test_the_divergence_is_0_for_equal_views_and_largest_for_opposite_ones() -> None:
    same = torch.randn(4, 1, 3).expand(4, 3, 3)
    assert jensen_shannon(same).item() == pytest.approx(0.0, abs=1e-6)
    opposite = (200 * torch.eye(3)).expand(2, 3, 3)
    assert jensen_shannon(opposite).item() == pytest.approx(math.log(3))


def test_a_certain_prediction_has_a_finite_gradient() -> None:
    logits = torch.tensor([[[90.0, -90.0], [-90.0, 90.0], [0.0, 0.0]]], requires_grad=True)
    jensen_shannon(logits).backward()
    assert torch.isfinite(logits.grad).all()


def test_the_image_itself_is_classified_and_all_views_are_compared(logits: torch.Tensor) -> None:
    loss = ConsistencyLoss(ClassificationLoss(smoothing=0.1), 12.0)(logits, LABELS)
    classified = functional.cross_entropy(logits[:, 0], LABELS, label_smoothing=0.1)
    torch.testing.assert_close(loss, classified + 12 * jensen_shannon(logits))


def test_the_losses_of_pieces_sum_up_to_that_of_the_batch(logits: torch.Tensor) -> None:
    loss = ConsistencyLoss(ClassificationLoss(), 12.0)
    pieces = zip(logits.tensor_split(2), LABELS.tensor_split(2), strict=True)
    torch.testing.assert_close(
        sum(loss(piece, labels) * len(labels) / 5 for piece, labels in pieces), loss(logits, LABELS)
    )


@pytest.mark.parametrize("channels_last", [True, False])
def test_views_go_through_the_network_as_images_do(channels_last: bool) -> None:
    form = ComputeFormat(channels_last=channels_last)
    views = torch.randint(0, 256, (5, 3, 8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    normalise = Normaliser((0.5, 0.4, 0.3), (0.2, 0.3, 0.4), torch.device("cpu"), form)
    network = nn.Sequential(nn.Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    inputs = normalise(views)
    assert inputs.shape == (5, 3, 3, 8, 8)
    assert inputs.flatten(0, 1).is_contiguous(memory_format=form.memory_format)
    answers = OverViews(network)(inputs)
    for view in range(3):
        torch.testing.assert_close(inputs[:, view], normalise(views[:, view]))
        torch.testing.assert_close(answers[:, view], network(normalise(views[:, view])))
