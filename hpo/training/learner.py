"""Learner: everything that training changes (weights, moving average, gradient scale), and how it is optimised.

A baseline, which has nothing to train, has a BaselineLearner in its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn

from hpo.models.classifier import Classifier, blocks, train_blocks
from hpo.models.compute_format import ComputeFormat
from hpo.training.loss import Objective
from hpo.training.micro_batch import workload
from hpo.training.optimisation import Optimisation
from hpo.training.stages import plan_stages, stage_at
from hpo.training.state import with_prefix, without_prefix
from search_spaces import TrialConfig


class Learner:
    """Learns from one batch after another; a batch that does not fit into the memory, in pieces (see `Gradients`).

    `per_epoch` is the number of updates of an epoch. Call `begin_epoch` before each epoch: the trainable blocks and the
    settings may change between two epochs (see `stages.plan_stages`). The folder `cache` stores how many images fit
    into the memory at a time; None stores nothing.
    """

    def __init__(
        self,
        config: TrialConfig,
        model: Classifier,
        criterion: nn.Module,
        compute_format: ComputeFormat,
        *,
        per_epoch: int,
        on_features: bool = False,
        cache: Path | None = None,
    ) -> None:
        device = next(model.parameters()).device
        self._model = model
        self._format = compute_format
        self._on_features = on_features
        self._per_epoch = per_epoch
        self._cache = cache
        self._objective = Objective(config, model, criterion, compute_format, device=device, on_features=on_features)
        self._scaler = torch.amp.GradScaler(device.type, enabled=compute_format.precision == "fp16")
        self._average = ModelEmaV3(model, decay=config.ema, use_warmup=True) if config.ema else None
        self._stages = plan_stages(config, len(blocks(model.backbone)))
        self._stage = 0
        self._optimisation = self._new_optimisation()
        self.updates = 0
        """Updates done so far, in all epochs."""

    @property
    def evaluated(self) -> Classifier:
        """The classifier to evaluate and keep: the moving average if there is one."""
        if self._average is None:
            return self._model
        average: Classifier = self._average.module
        return average

    @property
    def learning_rate(self) -> float:
        """Learning rate of the head in the last update."""
        return self._optimisation.learning_rate

    @property
    def micro_batch(self) -> int | None:
        """Images that go through the network at a time; None while every batch fits whole."""
        return self._optimisation.micro_batch

    @property
    def in_last_stage(self) -> bool:
        """Whether the last stage has begun: no more blocks of the backbone will be unfrozen."""
        return self._stage == len(self._stages) - 1

    def begin_epoch(self, epoch: int) -> None:
        """Enter the stage of epoch number `epoch`, from 0, if it differs from the current one."""
        stage = stage_at(self._stages, epoch)
        if stage != self._stage:
            before = self._optimisation
            self._enter_stage(stage)
            self._optimisation.continue_from(before)

    def enter_training_mode(self) -> None:
        """Put the model, except its frozen parts, into training mode."""
        self._model.train()
        self._optimisation.refresh_modes()

    def learn(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Make one update from one batch; return its loss, a detached scalar on the device.

        Raises InfeasibleError if the memory is not enough (see `Optimisation.step`).
        """
        loss = self._optimisation.step(inputs, targets, self.updates)
        self.updates += 1
        if self._average is not None:
            self._average.update(self._model, step=self.updates)
        return loss

    def record_score(self, score: float) -> None:
        """Give the schedule the score of the epoch; larger is better."""
        self._optimisation.record_score(score)

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors to resume from."""
        return {
            **with_prefix("model", self._model.state_dict()),
            **(with_prefix("average", self.evaluated.state_dict()) if self._average is not None else {}),
            **with_prefix("optimiser", self._optimisation.tensors()),
        }

    def to_dict(self) -> dict[str, Any]:
        """Return all other values to resume from, JSON-ready."""
        return {
            "updates": self.updates,
            "stage": self._stage,
            "optimisation": self._optimisation.to_dict(),
            "scaler": self._scaler.state_dict(),
        }

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Restore what `tensors()` and `to_dict()` returned."""
        self._model.load_state_dict(without_prefix("model", tensors))
        if self._average is not None:
            self.evaluated.load_state_dict(without_prefix("average", tensors))
        self._enter_stage(int(state["stage"]))
        self._optimisation.restore(without_prefix("optimiser", tensors), state["optimisation"])
        self._scaler.load_state_dict(dict(state["scaler"]))
        self.updates = int(state["updates"])

    def _enter_stage(self, stage: int) -> None:
        self._stage = stage
        self._optimisation = self._new_optimisation()

    def _new_optimisation(self) -> Optimisation:
        """Freeze the blocks that the current stage freezes, and return an optimisation of the others."""
        stage = self._stages[self._stage]
        train_blocks(self._model, stage.blocks, stage.settings.unfreeze_from)
        work = workload(stage.settings, self._model, self._format, on_features=self._on_features)
        return Optimisation(
            stage, self._model, self._objective, self._scaler, work, per_epoch=self._per_epoch, cache=self._cache
        )


class BaselineLearner:
    """Null learner for a baseline: computes the loss of one batch after another and changes nothing."""

    learning_rate = 0.0
    micro_batch = None
    in_last_stage = True

    def __init__(self, model: Classifier, objective: Objective) -> None:
        self._objective = objective
        self.evaluated = model
        self.updates = 0
        """Batches seen so far."""

    def begin_epoch(self, epoch: int) -> None:
        """Do nothing: every epoch is the same."""

    def enter_training_mode(self) -> None:
        """Put the baseline into evaluation mode: it is not trained."""
        self.evaluated.eval()

    def learn(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of a batch, a scalar on the device."""
        with torch.no_grad():
            loss = self._objective(inputs, targets)
        self.updates += 1
        return loss

    def record_score(self, score: float) -> None:
        """Ignore the score."""

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors to resume from: the class frequencies."""
        return with_prefix("model", self.evaluated.state_dict())

    def to_dict(self) -> dict[str, Any]:
        """Return all other values to resume from, JSON-ready."""
        return {"updates": self.updates}

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Restore what `tensors()` and `to_dict()` returned."""
        self.evaluated.load_state_dict(without_prefix("model", tensors))
        self.updates = int(state["updates"])
