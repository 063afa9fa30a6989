"""Gradients of a batch, computed at once or, where the memory is not enough, piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from hpo.training.batch_statistics import BatchStatistics
from hpo.training.memory import Exhausted, attempted, release
from hpo.training.microbatch import MicroBatch
from hpo.training.randomness import generator_states, restore_generators

Loss = Callable[[Tensor, Tensor], Tensor]
"""(inputs (b, …), targets (b, …)) -> scalar: a mean over the images, plus what does not depend on them."""


class Gradients:
    """Computes the gradients of a batch, however often it must be cut in half for that.

    The loss being a mean over the images, that of the batch is the sum over its pieces of theirs, each times its share
    of the images. The shares sum up to 1, so a penalty on the weights counts once. The gradients therefore equal those
    of the whole batch but for rounding, with two exceptions. BatchNorm that trains normalises by the piece instead of
    the batch (frozen BatchNorm, LayerNorm and GroupNorm know no batch); its running statistics move as far as they
    would have moved, see `BatchStatistics.over`. And dropout and drop path draw other numbers.

    An attempt that fails leaves no trace: the gradients are dropped, torch's generators and the running statistics are
    put back. A step that was cut equals one that began with those pieces, on a CPU bit for bit.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: Loss,
        optimiser: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        micro_batch: MicroBatch,
    ) -> None:
        self._network = network
        self._loss = loss
        self._optimiser = optimiser
        self._scaler = scaler
        self._micro_batch = micro_batch
        self._device = next(network.parameters()).device
        self.modes_changed()

    def modes_changed(self) -> None:
        """Look again which modules are in training mode."""
        self._statistics = BatchStatistics(self._network)
        # A single image has no batch to be normalised by.
        self._fewest = 2 if self._statistics.present else 1

    def __call__(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Leave the scaled gradients of the batch's loss in the parameters; give that loss, a scalar without gradient.

        Raises InfeasibleError where not even the smallest pieces fit.
        """
        self._micro_batch.begin()
        self._statistics.keep()
        generators = generator_states(self._device)
        while True:
            outcome = attempted(lambda: self._attempt(inputs, targets))
            if not isinstance(outcome, Exhausted):
                self._micro_batch.succeeded()
                return outcome
            self._undo(generators)
            self._micro_batch.halve(len(targets), self._fewest, outcome.reason)

    def _attempt(self, inputs: Tensor, targets: Tensor) -> Tensor:
        self._optimiser.zero_grad(set_to_none=True)
        pieces = self._micro_batch.pieces(len(targets), self._fewest)
        total = torch.zeros((), device=self._device)
        with self._statistics.over(pieces):
            for images, wanted in zip(inputs.tensor_split(pieces), targets.tensor_split(pieces), strict=True):
                loss = self._loss(images, wanted) * (len(wanted) / len(targets))
                torch.autograd.backward(self._scaler.scale(loss))
                total += loss.detach()
        return total

    def _undo(self, generators: Mapping[str, Tensor]) -> None:
        self._optimiser.zero_grad(set_to_none=True)
        self._statistics.restore()
        restore_generators(generators, self._device)
        release(self._device)
