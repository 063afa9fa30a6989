"""Optimisation of the weights in one stage of a run: optimiser, its parameter groups, learning rates and gradients."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from timm.optim import create_optimizer_v2  # type: ignore[attr-defined]
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from hpo.models.classifier import Classifier, layer_scales
from hpo.models.memory import infeasible_where_exhausted
from hpo.training.gradients import Gradients
from hpo.training.loss import Objective
from hpo.training.micro_batch import MicroBatch, Workload
from hpo.training.schedule import build_schedule
from hpo.training.stages import Stage
from hpo.training.state import optimiser_scalars, optimiser_tensors, restore_optimiser
from search_spaces import TrialConfig

FUSED = frozenset({"adamw", "adam", "sgd"})
"""Optimisers for which torch has a fused kernel; the others use its operations on lists of tensors."""


class Optimisation:
    """Takes the steps of one stage, over the parameters of `model` that are trainable when it is created.

    `per_epoch` is the number of steps of an epoch. The folder `cache` stores how many images fit at a time; None
    stores nothing.
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
        """Learning rate of the head in the last step."""
        groups = self._optimiser.param_groups
        return next(float(group["lr"]) for group in groups if any(p is self._head for p in group["params"]))

    @property
    def micro_batch(self) -> int | None:
        """Images that go through the network at a time; None while every batch fits whole."""
        return self._micro_batch.size

    def refresh_modes(self) -> None:
        """Find again the modules in training mode; call it after modes have changed."""
        self._gradients.refresh_modes()

    def step(self, inputs: Tensor, targets: Tensor, number: int) -> Tensor:
        """Take step number `number` of the run, from 0; return the loss of the batch, a detached scalar.

        Raises InfeasibleError if the smallest piece of the batch, or the update itself, does not fit into the memory.
        """
        self._schedule.before_update(number - self._before)
        loss = self._gradients(inputs, targets)
        with infeasible_where_exhausted(self._step):
            self._scaler.unscale_(self._optimiser)
            clip_gradients(self._optimiser, self._stage.settings.gradient_clip)
            self._scaler.step(self._optimiser)
            self._scaler.update()
        return loss

    def record_score(self, score: float) -> None:
        """Give the schedule the score of the epoch; larger is better."""
        self._schedule.after_epoch(score)

    def continue_from(self, before: Optimisation) -> None:
        """Take over the state of the stage before: the optimiser's and, within a phase, the schedule's."""
        # Parameters that are frozen now would keep their gradients in memory otherwise.
        before._optimiser.zero_grad(set_to_none=True)
        carry_over(before._optimiser, self._optimiser)
        if before._stage.phase == self._stage.phase:
            self._schedule.restore(before._schedule.to_dict())

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors to resume from."""
        return optimiser_tensors(self._optimiser)

    def to_dict(self) -> dict[str, Any]:
        """Return the other values to resume from, JSON-ready."""
        return {
            "micro_batch": self.micro_batch,
            "optimiser": optimiser_scalars(self._optimiser),
            "schedule": self._schedule.to_dict(),
        }

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Restore what `tensors()` and `to_dict()` returned."""
        restore_optimiser(self._optimiser, tensors, state["optimiser"])
        self._schedule.restore(state["schedule"])
        self._micro_batch.resume(state["micro_batch"])


def build_optimiser(config: TrialConfig, model: Classifier) -> torch.optim.Optimizer:
    """Build the optimiser over the trainable parameters of `model`; its last group has parameters of the head."""
    kernel: dict[str, Any] = {"fused": True} if config.optimiser in FUSED else {"foreach": True}
    optimiser: torch.optim.Optimizer = create_optimizer_v2(
        parameter_groups(config, model),
        opt=config.optimiser,
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        **kernel,
    )
    return optimiser


def parameter_groups(config: TrialConfig, model: Classifier) -> list[dict[str, Any]]:
    """Return the trainable parameters in groups of equal learning rate and weight decay.

    Norms, biases, and the parameters that timm excludes have no weight decay.
    """
    # Only timm's own schedulers use its `lr_scale`, so the scale of a layer goes into the group's `lr` itself.
    scales = layer_scales(model.backbone, config.layer_decay)
    spared = _never_decayed(model.backbone)
    groups: dict[tuple[float, float], dict[str, Any]] = {}

    def add(parameter: nn.Parameter, learning_rate: float, *, decayed: bool) -> None:
        if not parameter.requires_grad:
            return
        key = (learning_rate, config.weight_decay if decayed and parameter.ndim > 1 else 0.0)
        group = groups.setdefault(key, {"params": [], "lr": key[0], "weight_decay": key[1]})
        group["params"].append(parameter)

    for name, parameter in model.backbone.named_parameters():
        rate = config.learning_rate * config.backbone_lr_ratio * scales[name]
        add(parameter, rate, decayed=name not in spared)
    for parameter in model.head.parameters():
        add(parameter, config.learning_rate, decayed=True)
    return list(groups.values())


def _never_decayed(backbone: nn.Module) -> set[str]:
    """Return the names that timm excludes from weight decay besides norms and biases: class tokens, embeddings."""
    names = getattr(backbone, "no_weight_decay", None)
    return set(names()) if names is not None else set()


def carry_over(before: torch.optim.Optimizer, now: torch.optim.Optimizer) -> None:
    """Copy to `now` the state (moments, counts) that `before` has of their common parameters.

    Parameters that are new in `now` begin without state; so do all parameters if the two are of different types.
    """
    if type(before) is not type(now):
        return
    for parameter in (parameter for group in now.param_groups for parameter in group["params"]):
        if parameter in before.state:
            now.state[parameter] = before.state[parameter]
        elif isinstance(now, torch.optim.SGD):
            # The fused kernel needs a buffer for all parameters or for none. A zero buffer gives the same first step.
            now.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def clip_gradients(optimiser: torch.optim.Optimizer, largest: float) -> None:
    """Scale all gradients together so that their norm is `largest` at most; 0 means no limit."""
    if largest:
        clip_grad_norm_((p for group in optimiser.param_groups for p in group["params"]), largest, foreach=True)
