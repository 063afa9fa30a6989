"""BaselineLearner: a classifier without parameters goes through a run untrained."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from hpo.models.classifier import Classifier
from hpo.models.compute_format import ComputeFormat
from hpo.training import FitData, Runtime, fit
from hpo.training.learner import BaselineLearner
from hpo.training.loss import ClassificationLoss, Objective
from search_spaces import TrialConfig

Make = Callable[..., TrialConfig]


class Constant(Classifier):
    """Predicts the same logits for every image."""

    def __init__(self, answer: list[float]) -> None:
        super().__init__(nn.Identity(), nn.Identity())
        self.answer: torch.Tensor
        self.register_buffer("answer", torch.tensor(answer))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.answer.expand(len(images), -1)


def baseline_learner(config: TrialConfig, model: Constant) -> BaselineLearner:
    return BaselineLearner(
        model, Objective(config, model, ClassificationLoss(), ComputeFormat(), device=torch.device("cpu"))
    )


def test_the_baseline_learner_computes_the_loss_and_changes_nothing(config: Make) -> None:
    model = Constant([1.0, 0.0, -1.0])
    learner = baseline_learner(config(), model)
    assert not model.learns
    images, labels = torch.zeros(4, 3, 32, 32), torch.tensor([0, 1, 2, 2])
    learner.begin_epoch(0)
    learner.enter_training_mode()
    loss = learner.learn(images, labels)
    assert loss.item() == pytest.approx(functional.cross_entropy(model(images), labels).item())
    assert (learner.updates, learner.learning_rate, learner.micro_batch) == (1, 0.0, None)
    assert torch.equal(learner.evaluated.answer, torch.tensor([1.0, 0.0, -1.0]))


def test_the_baseline_learner_resumes_from_its_state(config: Make) -> None:
    first, second = baseline_learner(config(), Constant([1.0, 2.0])), baseline_learner(config(), Constant([0.0, 0.0]))
    first.learn(torch.zeros(1, 3, 32, 32), torch.tensor([0]))
    second.restore(first.tensors(), first.to_dict())
    assert second.evaluated.answer.tolist() == [1.0, 2.0]
    assert second.to_dict() == first.to_dict()


@pytest.mark.parametrize("name", ["random-guess", "majority-class"])
def test_a_baseline_has_one_epoch_for_any_setting(config: Make, data: FitData, name: str) -> None:
    settings = config(backbone=name, epochs=5, unfreeze_depth=0.0, ema=0.9, patience=2, l2=0.1)
    (result,) = fit(settings, data, Runtime())
    assert (result.epoch, result.last, result.facts["trainable_parameters"]) == (1, True, 0)
    assert np.isfinite(result.train_loss)
    assert list(fit(settings, data, Runtime(), result.snapshot())) == []


def test_the_majority_class_reaches_the_share_of_its_class(config: Make, data: FitData) -> None:
    (result,) = fit(config(backbone="majority-class"), data, Runtime())
    assert data.val is not None
    largest = int(np.bincount(data.train.labels).argmax())
    assert result.metrics["accuracy"] == pytest.approx(float((data.val.labels == largest).mean()))
