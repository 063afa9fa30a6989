"""Gradients of a batch, computed at once or, if the memory is not enough, piece by piece.

BatchNorm's running statistics, which a forward pass changes, are kept so that a failed attempt leaves no trace.
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

Loss = Callable[[Tensor, Tensor], Tensor]
"""(inputs (b, …), targets (b, …)) -> scalar: a mean over the images, plus terms that do not depend on them."""


class Gradients:
    """Computes the gradients of a batch, in pieces that are halved until they fit into the memory.

    The loss is a mean over the images, so the loss of the batch is the sum of its pieces' losses, each times its share
    of the images. The shares sum up to 1, so a penalty on the weights counts once. The gradients therefore equal those
    of the whole batch up to rounding, with two exceptions. BatchNorm that trains normalises by the piece instead of
    the batch (frozen BatchNorm, LayerNorm and GroupNorm do not depend on the batch); its running statistics move as far
    as they would have moved, see `BatchStatistics.over`. And dropout and drop path draw other numbers.

    A failed attempt leaves no trace: the gradients are dropped, torch's generators and the running statistics are
    restored. A step in pieces equals one that began with those pieces, on a CPU bit for bit.
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
        """Find again the modules in training mode; call it after modes have changed."""
        self._statistics = BatchStatistics(self._network)
        # A single image has no batch statistics to be normalised by.
        self._fewest = 2 if self._statistics.present else 1

    def __call__(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Leave the scaled gradients of the batch's loss in the parameters; return the loss, a detached scalar.

        Raises InfeasibleError if not even the smallest pieces fit.
        """
        self._micro_batch.begin_step()
        self._statistics.keep()
        generators = generator_states(self._device)
        while True:
            outcome = attempt(lambda: self._attempt(inputs, targets))
            if not isinstance(outcome, Exhausted):
                self._micro_batch.record_success()
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


RUNNING = ("running_mean", "running_var")

COUNT = "num_batches_tracked"


class BatchStatistics:
    """Running statistics of the modules that normalise by the batch, such as BatchNorm, in training mode.

    Modules in evaluation mode, and so all frozen ones, are left out.
    """

    def __init__(self, network: nn.Module) -> None:
        self._modules: list[Any] = [
            module
            for module in network.modules()
            if module.training and getattr(module, "running_var", None) is not None
        ]
        # Two lists, because torch copies a list of tensors at once only if all are of one type.
        lists = (self._buffers(*RUNNING), self._buffers(COUNT))
        self._live = [tensors for tensors in lists if tensors]
        self._kept = [[torch.empty_like(tensor) for tensor in tensors] for tensors in self._live]

    @property
    def present(self) -> bool:
        """Whether the network normalises by the batch at all."""
        return bool(self._modules)

    def keep(self) -> None:
        """Copy the statistics, so that `restore` can put them back."""
        # Before each step, since a forward pass that fails halfway has changed the first of them already. It takes
        # 18 µs for the 15 BatchNorms of a small ResNet and 60 µs for the 53 of a ResNet-50, less than a thousandth of
        # its step.
        for kept, live in zip(self._kept, self._live, strict=True):
            torch._foreach_copy_(kept, live)

    def restore(self) -> None:
        """Put back the statistics that `keep` copied."""
        for kept, live in zip(self._kept, self._live, strict=True):
            torch._foreach_copy_(live, kept)

    @contextmanager
    def over(self, pieces: int) -> Iterator[None]:
        """Adjust the momentum, so that `pieces` forward passes inside move the statistics as far as one pass would."""
        # A pass keeps 1 - m of the old value, with momentum m. With momentum 1 - (1 - m)^(1 / pieces), all passes
        # together keep as much, and add the mean over the pieces.
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
