"""Objective: what a step lowers, as a function of a batch. The loss of the logits, and penalties on the head."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from hpo.training.classifier import Classifier
from hpo.training.consistency import OverViews
from hpo.training.numerics import NumberFormat
from search_spaces import TrialConfig


class Objective:
    """(inputs (b, …), targets (b, …)) -> scalar: a mean over the images, plus what does not depend on them."""

    def __init__(
        self,
        config: TrialConfig,
        model: Classifier,
        criterion: nn.Module,
        number_format: NumberFormat,
        *,
        device: torch.device,
        on_features: bool = False,
    ) -> None:
        seen: nn.Module = model.head if on_features else model
        self.network: nn.Module = OverViews(seen) if config.augmix_consistency else seen
        """What is run: the classifier, or its head alone over stored features."""
        self._criterion = criterion.to(device)
        self._head = model.head
        self._l1, self._l2 = config.l1, config.l2
        self._format = number_format
        self._device = device

    def __call__(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """The scalar to lower, in float32; the network computes in the number format."""
        with self._format.autocast(self._device):
            logits = self.network(inputs)
        loss: Tensor = self._criterion(logits.float(), targets)
        if self._l1:
            loss = loss + self._l1 * l1_penalty(self._head)
        if self._l2:
            loss = loss + self._l2 * l2_penalty(self._head)
        return loss


def l1_penalty(head: nn.Module) -> Tensor:
    """Sum of the absolute weights of the head's linear layers, biases left out; a float32 scalar."""
    return sum((weight.abs().sum() for weight in _linear_weights(head)), torch.zeros(()))


def l2_penalty(head: nn.Module) -> Tensor:
    """Sum of the squared weights of the head's linear layers, biases left out; a float32 scalar."""
    return sum((weight.square().sum() for weight in _linear_weights(head)), torch.zeros(()))


def _linear_weights(head: nn.Module) -> Iterator[Tensor]:
    return (layer.weight for layer in head.modules() if isinstance(layer, nn.Linear))
