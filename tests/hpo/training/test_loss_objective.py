from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from hpo.models import build_model
from hpo.models.compute_format import ComputeFormat
from hpo.training.loss import ClassificationLoss, Objective, l1_penalty, l2_penalty
from search_spaces import TrialConfig

Make = Callable[..., TrialConfig]
HEAD = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
CPU = torch.device("cpu")


@pytest.mark.parametrize(("penalty", "each"), [(l1_penalty, 0.5), (l2_penalty, 0.25)])
def test_a_penalty_counts_the_weights_of_the_head_and_not_its_biases(
    penalty: Callable[[nn.Module], torch.Tensor], each: float
) -> None:
    for parameter in HEAD.parameters():
        nn.init.constant_(parameter, -0.5)
    assert penalty(HEAD).item() == pytest.approx(each * 6)
    assert penalty(nn.Identity()).item() == 0


@pytest.mark.parametrize("on_features", [False, True])
def test_the_objective_is_the_loss_of_the_logits_plus_the_penalties(config: Make, on_features: bool) -> None:
    settings = config(l1=0.01, l2=0.1, head_layers=1)
    model = build_model(settings, 3).model.eval()
    images, labels = torch.randn(4, 3, 32, 32), torch.arange(4) % 3
    loss = ClassificationLoss()
    objective = Objective(settings, model, loss, ComputeFormat(), device=CPU, on_features=on_features)
    inputs = model.backbone(images) if on_features else images
    expected = loss(model(images), labels) + 0.01 * l1_penalty(model.head) + 0.1 * l2_penalty(model.head)
    torch.testing.assert_close(objective(inputs, labels), expected)
