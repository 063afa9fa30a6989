"""Learner: all that a training step changes. Weights, optimiser, learning rate, moving average, gradient scale."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn

from hpo.training.classifier import Classifier
from hpo.training.gradients import Gradients
from hpo.training.loss import ClassificationLoss
from hpo.training.memory import infeasible_where_exhausted
from hpo.training.microbatch import MicroBatch, workload
from hpo.training.numerics import NumberFormat
from hpo.training.optim import build_optimiser, clip_gradients, l1_penalty
from hpo.training.schedule import build_schedule
from hpo.training.tensor_bytes import (
    optimiser_scalars,
    optimiser_tensors,
    prefixed,
    restore_optimiser,
    under,
)
from search_spaces import TrialConfig


class Learner:
    """Learns one batch after another; one that does not fit into the memory, in pieces (see `Gradients`).

    How many images fit at a time is remembered in the folder `cache`; None remembers nothing.
    """

    def __init__(
        self,
        config: TrialConfig,
        model: Classifier,
        criterion: ClassificationLoss,
        number_format: NumberFormat,
        *,
        updates: int,
        on_features: bool = False,
        cache: Path | None = None,
    ) -> None:
        self._config = config
        self._model = model
        self._network: nn.Module = model.head if on_features else model
        self._device = next(model.parameters()).device
        self._criterion = criterion.to(self._device)
        self._format = number_format
        self._optimiser = build_optimiser(config, model)
        self._schedule = build_schedule(config, self._optimiser, updates)
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=number_format.precision == "fp16")
        self._average = ModelEmaV3(model, decay=config.ema, use_warmup=True) if config.ema else None
        work = workload(config, model, number_format, on_features=on_features)
        self._step = f"the optimiser's step of {work}"
        self._micro_batch = MicroBatch(work, cache)
        self._gradients = Gradients(self._network, self._loss, self._optimiser, self._scaler, self._micro_batch)
        self.updates = 0
        """Updates done so far, in all epochs."""

    @property
    def evaluated(self) -> Classifier:
        """The classifier to evaluate and keep: the moving average, where there is one."""
        if self._average is None:
            return self._model
        average: Classifier = self._average.module
        return average

    @property
    def learning_rate(self) -> float:
        """Of the head, in the last update."""
        last = list(self._model.head.parameters())[-1]
        groups = self._optimiser.param_groups
        return next(float(group["lr"]) for group in groups if any(p is last for p in group["params"]))

    @property
    def micro_batch(self) -> int | None:
        """Images that go through the network at a time; None while every batch fits whole."""
        return self._micro_batch.size

    def training(self) -> None:
        """Put the model into training mode, all but its frozen parts."""
        self._model.train()
        self._gradients.modes_changed()

    def learn(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """One update from one batch; gives its loss, a scalar on the device that no gradient hangs on.

        Raises InfeasibleError where the memory is enough neither for the smallest piece of the batch, nor for the
        update itself, which no cut makes smaller.
        """
        self._schedule.before_update(self.updates)
        loss = self._gradients(inputs, targets)
        with infeasible_where_exhausted(self._step):
            self._update()
        return loss

    def epoch_scored(self, score: float) -> None:
        """Tell the schedule the score of the epoch; larger is better."""
        self._schedule.after_epoch(score)

    def tensors(self) -> dict[str, Tensor]:
        """All tensors to go on from."""
        return {
            **prefixed("model", self._model.state_dict()),
            **(prefixed("average", self.evaluated.state_dict()) if self._average is not None else {}),
            **prefixed("optimiser", optimiser_tensors(self._optimiser)),
        }

    def to_dict(self) -> dict[str, Any]:
        """All the rest to go on from, JSON-ready."""
        return {
            "updates": self.updates,
            "micro_batch": self.micro_batch,
            "optimiser": optimiser_scalars(self._optimiser),
            "schedule": self._schedule.to_dict(),
            "scaler": self._scaler.state_dict(),
        }

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Go on from `tensors()` and `to_dict()`."""
        self._model.load_state_dict(under("model", tensors))
        if self._average is not None:
            self.evaluated.load_state_dict(under("average", tensors))
        restore_optimiser(self._optimiser, under("optimiser", tensors), state["optimiser"])
        self._schedule.restore(state["schedule"])
        self._scaler.load_state_dict(dict(state["scaler"]))
        self.updates = int(state["updates"])
        self._micro_batch.resume(state["micro_batch"])

    def _update(self) -> None:
        """One update of all that trains, from the gradients that are there."""
        self._scaler.unscale_(self._optimiser)
        clip_gradients(self._optimiser, self._config.gradient_clip)
        self._scaler.step(self._optimiser)
        self._scaler.update()
        self.updates += 1
        if self._average is not None:
            self._average.update(self._model, step=self.updates)

    def _loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        with self._format.autocast(self._device):
            logits = self._network(inputs)
        loss: Tensor = self._criterion(logits.float(), targets)
        return loss + self._config.l1 * l1_penalty(self._model.head) if self._config.l1 else loss
