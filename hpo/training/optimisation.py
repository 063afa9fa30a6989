"""Optimisation: how the weights change in one stage of a run. Optimiser, learning rates, and pieces that fit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hpo.training.classifier import Classifier
from hpo.training.gradients import Gradients
from hpo.training.memory import infeasible_where_exhausted
from hpo.training.microbatch import MicroBatch, Workload
from hpo.training.objective import Objective
from hpo.training.optim import build_optimiser, carry_over, clip_gradients
from hpo.training.phases import Stage
from hpo.training.schedule import build_schedule
from hpo.training.tensor_bytes import optimiser_scalars, optimiser_tensors, restore_optimiser


class Optimisation:
    """Takes the steps of one stage, over the parameters of `model` that train when it is made.

    `per_epoch` is the number of steps of an epoch. How many images fit at a time is remembered in the folder `cache`;
    None remembers nothing.
    """

    def __init__(
        self,
        stage: Stage,
        model: Classifier,
        objective: Objective,
        scaler: torch.amp.GradScaler,
        work: Workload,
        *,
        per_epoch: int,
        cache: Path | None,
    ) -> None:
        self._stage = stage
        self._scaler = scaler
        self._head = list(model.head.parameters())[-1]
        self._optimiser = build_optimiser(stage.settings, model)
        self._schedule = build_schedule(stage.settings, self._optimiser, per_epoch * len(stage.phase))
        self._before = per_epoch * stage.phase.start
        self._step = f"the optimiser's step of {work}"
        self._micro_batch = MicroBatch(work, cache)
        self._gradients = Gradients(objective.network, objective, self._optimiser, scaler, self._micro_batch)

    @property
    def learning_rate(self) -> float:
        """Of the head, in the last step."""
        groups = self._optimiser.param_groups
        return next(float(group["lr"]) for group in groups if any(p is self._head for p in group["params"]))

    @property
    def micro_batch(self) -> int | None:
        """Images that go through the network at a time; None while every batch fits whole."""
        return self._micro_batch.size

    def modes_changed(self) -> None:
        """Look again which modules are in training mode."""
        self._gradients.modes_changed()

    def step(self, inputs: Tensor, targets: Tensor, number: int) -> Tensor:
        """Step number `number` of the run, from 0; gives the loss of the batch, a scalar without gradient.

        Raises InfeasibleError where the memory is enough neither for the smallest piece of the batch, nor for the
        update itself, which no cut makes smaller.
        """
        self._schedule.before_update(number - self._before)
        loss = self._gradients(inputs, targets)
        with infeasible_where_exhausted(self._step):
            self._scaler.unscale_(self._optimiser)
            clip_gradients(self._optimiser, self._stage.settings.gradient_clip)
            self._scaler.step(self._optimiser)
            self._scaler.update()
        return loss

    def epoch_scored(self, score: float) -> None:
        """Tell the schedule the score of the epoch; larger is better."""
        self._schedule.after_epoch(score)

    def follow(self, before: Optimisation) -> None:
        """Take over the state of the stage before: the optimiser's and, within a phase, the schedule's."""
        before._optimiser.zero_grad(set_to_none=True)  # or what is frozen now would keep its gradients in memory
        carry_over(before._optimiser, self._optimiser)
        if before._stage.phase == self._stage.phase:
            self._schedule.restore(before._schedule.to_dict())

    def tensors(self) -> dict[str, Tensor]:
        """The tensors to go on from."""
        return optimiser_tensors(self._optimiser)

    def to_dict(self) -> dict[str, Any]:
        """The rest to go on from, JSON-ready."""
        return {
            "micro_batch": self.micro_batch,
            "optimiser": optimiser_scalars(self._optimiser),
            "schedule": self._schedule.to_dict(),
        }

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Go on from `tensors()` and `to_dict()`."""
        restore_optimiser(self._optimiser, tensors, state["optimiser"])
        self._schedule.restore(state["schedule"])
        self._micro_batch.resume(state["micro_batch"])
