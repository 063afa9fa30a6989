"""Untrained: stands in a run where a Learner would, for a classifier that has nothing to train: a baseline.

Learner: all that training changes. Weights, their moving average, the gradient scale, and how they are optimised.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn

from hpo.models.classifier import Classifier, blocks, train_upper
from hpo.models.compute_format import ComputeFormat
from hpo.training.loss import Objective
from hpo.training.micro_batch import workload
from hpo.training.optimisation import Optimisation
from hpo.training.stages import plan_stages, stage_at
from hpo.training.state import with_prefix, without_prefix
from search_spaces import TrialConfig


class BaselineLearner:
    """Tells the loss of one batch after another, and changes nothing."""

    learning_rate = 0.0
    micro_batch = None

    def __init__(self, model: Classifier, objective: Objective) -> None:
        self._objective = objective
        self.evaluated = model
        self.updates = 0
        """Batches seen so far."""

    in_last_stage = True

    def begin_epoch(self, epoch: int) -> None:
        """Every epoch is the same."""

    def enter_training_mode(self) -> None:
        """A baseline is evaluated, not trained."""
        self.evaluated.eval()

    def learn(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of a batch, a scalar on the device."""
        with torch.no_grad():
            loss = self._objective(inputs, targets)
        self.updates += 1
        return loss

    def record_score(self, score: float) -> None:
        """The score changes nothing."""

    def tensors(self) -> dict[str, Tensor]:
        """All tensors to go on from: what was learnt of the labels."""
        return with_prefix("model", self.evaluated.state_dict())

    def to_dict(self) -> dict[str, Any]:
        """All the rest to go on from, JSON-ready."""
        return {"updates": self.updates}

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Go on from `tensors()` and `to_dict()`."""
        self.evaluated.load_state_dict(without_prefix("model", tensors))
        self.updates = int(state["updates"])


class Learner:
    """Learns one batch after another; one that does not fit into the memory, in pieces (see `Gradients`).

    `per_epoch` is the number of updates of an epoch. Before each epoch it is told which one begins: what trains, and
    how, may change between two (see `stages.plan_stages`). How many images fit into the memory at a time is remembered
    in the folder `cache`; None remembers nothing.
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
        self._optimisation = self._optimised()
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
        return self._optimisation.learning_rate

    @property
    def micro_batch(self) -> int | None:
        """Images that go through the network at a time; None while every batch fits whole."""
        return self._optimisation.micro_batch

    @property
    def in_last_stage(self) -> bool:
        """Whether the last stage is under way: nothing more of the backbone will be unfrozen."""
        return self._stage == len(self._stages) - 1

    def begin_epoch(self, epoch: int) -> None:
        """Let train what trains in epoch number `epoch`, from 0: nothing changes but where a stage begins."""
        stage = stage_at(self._stages, epoch)
        if stage != self._stage:
            before = self._optimisation
            self._enter(stage)
            self._optimisation.continue_from(before)

    def enter_training_mode(self) -> None:
        """Put the model into training mode, all but its frozen parts."""
        self._model.train()
        self._optimisation.refresh_modes()

    def learn(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """One update from one batch; gives its loss, a scalar on the device that no gradient hangs on.

        Raises InfeasibleError where the memory is not enough (see `Optimisation.step`).
        """
        loss = self._optimisation.step(inputs, targets, self.updates)
        self.updates += 1
        if self._average is not None:
            self._average.update(self._model, step=self.updates)
        return loss

    def record_score(self, score: float) -> None:
        """Tell the schedule the score of the epoch; larger is better."""
        self._optimisation.record_score(score)

    def tensors(self) -> dict[str, Tensor]:
        """All tensors to go on from."""
        return {
            **with_prefix("model", self._model.state_dict()),
            **(with_prefix("average", self.evaluated.state_dict()) if self._average is not None else {}),
            **with_prefix("optimiser", self._optimisation.tensors()),
        }

    def to_dict(self) -> dict[str, Any]:
        """All the rest to go on from, JSON-ready."""
        return {
            "updates": self.updates,
            "stage": self._stage,
            "optimisation": self._optimisation.to_dict(),
            "scaler": self._scaler.state_dict(),
        }

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Go on from `tensors()` and `to_dict()`."""
        self._model.load_state_dict(without_prefix("model", tensors))
        if self._average is not None:
            self.evaluated.load_state_dict(without_prefix("average", tensors))
        self._enter(int(state["stage"]))
        self._optimisation.restore(without_prefix("optimiser", tensors), state["optimisation"])
        self._scaler.load_state_dict(dict(state["scaler"]))
        self.updates = int(state["updates"])

    def _enter(self, stage: int) -> None:
        self._stage = stage
        self._optimisation = self._optimised()

    def _optimised(self) -> Optimisation:
        """Freeze what the stage freezes, and optimise the rest."""
        stage = self._stages[self._stage]
        train_upper(self._model, stage.blocks)
        work = workload(stage.settings, self._model, self._format, on_features=self._on_features)
        return Optimisation(
            stage, self._model, self._objective, self._scaler, work, per_epoch=self._per_epoch, cache=self._cache
        )
