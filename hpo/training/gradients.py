"""Running statistics: what a forward pass in training mode changes in a network, besides its gradients.

Gradients of a batch, computed at once or, where the memory is not enough, piece by piece.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hpo.models.memory import Exhausted, attempt, release
from hpo.seeds import generator_states, restore_generators
from hpo.training.micro_batch import MicroBatch

RUNNING = ("running_mean", "running_var")

COUNT = "num_batches_tracked"


class BatchStatistics:
    """The BatchNorms (and their like) of a network that normalise by the batch and keep running statistics.

    Those in evaluation mode, hence all frozen ones, are not among them.
    """

    def __init__(self, network: nn.Module) -> None:
        self._modules: list[Any] = [
            module
            for module in network.modules()
            if module.training and getattr(module, "running_var", None) is not None
        ]
        # Apart, because torch copies a list of tensors at once only where all are of one type.
        lists = (self._buffers(*RUNNING), self._buffers(COUNT))
        self._live = [tensors for tensors in lists if tensors]
        self._kept = [[torch.empty_like(tensor) for tensor in tensors] for tensors in self._live]

    @property
    def present(self) -> bool:
        """Whether the network normalises by the batch at all."""
        return bool(self._modules)

    def keep(self) -> None:
        """Remember the statistics: 18 µs for the 15 BatchNorms of a small ResNet, 60 µs for the 53 of a ResNet-50.

        They must be remembered before each step, since a forward pass that fails halfway has changed the first of them
        already; 60 µs are less than a thousandth of a ResNet-50's step.
        """
        for kept, live in zip(self._kept, self._live, strict=True):
            torch._foreach_copy_(kept, live)

    def restore(self) -> None:
        """Put back what `keep` has remembered."""
        for kept, live in zip(self._kept, self._live, strict=True):
            torch._foreach_copy_(live, kept)

    @contextmanager
    def over(self, pieces: int) -> Iterator[None]:
        """Inside, `pieces` forward passes move the running statistics as far as one pass does outside.

        A pass keeps 1 - m of the old value, m being the momentum; `pieces` passes with 1 - (1 - m)^(1 / pieces) keep
        as much together, and what they add is the mean over the pieces.
        """
        if pieces == 1:
            yield
            return
        momenta: dict[Any, float] = {m: m.momentum for m in self._modules if m.momentum is not None}
        for module, momentum in momenta.items():
            module.momentum = 1 - (1 - momentum) ** (1 / pieces)
        try:
            yield
        finally:
            for module, momentum in momenta.items():
                module.momentum = momentum

    def _buffers(self, *names: str) -> list[Tensor]:
        buffers = (getattr(module, name, None) for module in self._modules for name in names)
        return [buffer for buffer in buffers if buffer is not None]


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
        self.refresh_modes()

    def refresh_modes(self) -> None:
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
            outcome = attempt(lambda: self._attempt(inputs, targets))
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
