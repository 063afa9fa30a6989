from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from hpo.training.loss import BETA, ClassificationLoss, ConsistencyLoss, build_loss, class_weights, log_priors, smoothed
from search_spaces import TrialConfig

LABELS = torch.tensor([0, 2, 1, 2, 2])
WEIGHTS = torch.tensor([0.5, 2.0, 1.0])


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(5, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_without_gamma_it_is_cross_entropy(logits: torch.Tensor, smoothing: float) -> None:
    expected = functional.cross_entropy(logits, LABELS, label_smoothing=smoothing)
    loss = ClassificationLoss(smoothing=smoothing)
    torch.testing.assert_close(loss(logits, LABELS), expected)
    torch.testing.assert_close(loss(logits, smoothed(LABELS, 3, smoothing)), expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_class_weights_are_those_of_cross_entropy(logits: torch.Tensor, smoothing: float) -> None:
    expected = functional.cross_entropy(logits, LABELS, WEIGHTS, label_smoothing=smoothing, reduction="sum") / 5
    torch.testing.assert_close(ClassificationLoss(smoothing=smoothing, weights=WEIGHTS)(logits, LABELS), expected)


def test_focal_loss_equals_the_paper_s_formula(logits: torch.Tensor) -> None:
    gamma = 2.0
    expected = 0.0
    for row, label in zip(logits.double(), LABELS, strict=True):
        p = (row[label].exp() / row.exp().sum()).item()
        expected -= WEIGHTS[label].item() * (1 - p) ** gamma * np.log(p) / 5
    loss = ClassificationLoss(gamma=gamma, weights=WEIGHTS)(logits, LABELS)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_soft_targets_mix_the_losses_of_their_labels(logits: torch.Tensor) -> None:
    other = torch.tensor([1, 1, 0, 2, 0])
    loss = ClassificationLoss(gamma=1.5, weights=WEIGHTS)
    mixed = 0.3 * smoothed(LABELS, 3, 0.0) + 0.7 * smoothed(other, 3, 0.0)
    torch.testing.assert_close(loss(logits, mixed), 0.3 * loss(logits, LABELS) + 0.7 * loss(logits, other))


def test_a_focal_gradient_stays_finite_for_a_certain_prediction() -> None:
    logits = torch.tensor([[60.0, -60.0, 0.0]], requires_grad=True)
    ClassificationLoss(gamma=0.5)(logits, torch.tensor([0])).backward()
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("kind", ["inverse", "effective"])
def test_class_weights_have_mean_one_over_the_images(kind: str) -> None:
    labels = np.repeat([0, 1, 2], [90, 9, 1])
    weights = class_weights(labels, 4, kind)
    assert weights is not None
    assert weights[labels].mean() == pytest.approx(1.0)
    assert weights[0] < weights[1] < weights[2]
    assert weights[3] == 0


def test_weights_are_in_the_ratios_of_their_formulas() -> None:
    labels = np.repeat([0, 1], [90, 10])
    inverse, effective = class_weights(labels, 2, "inverse"), class_weights(labels, 2, "effective")
    assert inverse is not None
    assert effective is not None
    assert inverse[1] / inverse[0] == pytest.approx(9.0)
    assert effective[1] / effective[0] == pytest.approx((1 - BETA**90) / (1 - BETA**10), rel=1e-5)
    assert class_weights(labels, 2, "none") is None


def test_balanced_softmax_equals_the_paper_s_formula(logits: torch.Tensor) -> None:
    counts = np.array([90, 9, 1])
    loss = build_loss(TrialConfig(loss="balanced-softmax"), np.repeat([0, 1, 2], counts), 3)
    expected = 0.0
    for row, label in zip(logits.double(), LABELS, strict=True):
        weighted = torch.from_numpy(counts) * row.exp()
        expected -= np.log(weighted[label].item() / weighted.sum().item()) / 5
    assert loss(logits, LABELS).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("choices", [{}, {"label_smoothing": 0.1}])
def test_balanced_softmax_of_equal_classes_is_cross_entropy(logits: torch.Tensor, choices: dict[str, object]) -> None:
    labels = np.arange(9) % 3
    balanced, plain = (
        build_loss(TrialConfig.from_dict({"loss": loss, **choices}), labels, 3)
        for loss in ("balanced-softmax", "cross-entropy")
    )
    torch.testing.assert_close(balanced(logits, LABELS), plain(logits, LABELS))


def test_a_class_without_an_image_counts_as_one() -> None:
    priors = log_priors(np.array([0, 0, 0, 1]), 3)
    assert priors.dtype == np.float32
    np.testing.assert_allclose(np.exp(priors), np.array([3, 1, 1]) / 5, rtol=1e-6)


def test_consistency_is_added_to_the_loss_that_is_configured() -> None:
    config = TrialConfig(augmix=1.0, augmix_consistency=12.0, loss="focal", focal_gamma=1.5)
    loss = build_loss(config, np.arange(3), 3)
    assert isinstance(loss, ConsistencyLoss)
    assert isinstance(loss.classification, ClassificationLoss)
    assert (loss.weight, loss.classification.gamma) == (12.0, 1.5)
