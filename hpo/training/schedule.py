"""Learning-rate schedules: pure functions of the update (timm's), and the plateau schedule, which follows the score.

Each update takes the schedule at its middle (update + 1/2), so neither the first step of a warm-up nor the last of a
cosine has a rate of 0. Groups keep their ratio: a schedule is a factor on each group's own peak `lr`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol, cast

import torch
from timm.scheduler.cosine_lr import CosineLRScheduler
from timm.scheduler.step_lr import StepLRScheduler

from hpo.training.stopping import Plateau
from search_spaces import TrialConfig

FACTOR = 0.5
"""Factor by which the plateau schedule multiplies the learning rate."""

PLATEAU_EPOCHS = 2
"""Epochs without a better score after which it does."""


class LearningRateSchedule(Protocol):
    """Sets `lr` of every parameter group."""

    def before_update(self, update: int) -> None:
        """Set the rates of update number `update`, from 0."""

    def after_epoch(self, score: float) -> None:
        """Take the epoch's score into account; larger is better."""

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-ready state."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore what `to_dict()` returned."""


class UpdateSchedule:
    """One of timm's schedulers: a pure function of the update, without state."""

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler

    def before_update(self, update: int) -> None:
        """Set the rates of update number `update`, from 0."""
        self._scheduler.step_update(update + 0.5)

    def after_epoch(self, score: float) -> None:
        """Ignore the score."""

    def to_dict(self) -> dict[str, Any]:
        """Return an empty state."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Ignore the empty state."""


class PlateauSchedule:
    """Halves the rates after two epochs without a better score; a linear warm-up comes first."""

    # timm's own plateau schedule is deprecated, because its state cannot be saved.

    def __init__(self, optimiser: torch.optim.Optimizer, warmup_updates: int) -> None:
        self._optimiser = optimiser
        self._peaks = [float(group["lr"]) for group in optimiser.param_groups]
        self._warmup = warmup_updates
        self._factor = 1.0
        self._plateau = Plateau()

    def before_update(self, update: int) -> None:
        """Set the rates of update number `update`, from 0."""
        warm = min(1.0, (update + 0.5) / self._warmup) if self._warmup else 1.0
        for group, peak in zip(self._optimiser.param_groups, self._peaks, strict=True):
            group["lr"] = peak * warm * self._factor

    def after_epoch(self, score: float) -> None:
        """Halve the rates if too many epochs have passed without a better score; larger is better."""
        self._plateau = self._plateau.after(score)
        if self._plateau.epochs >= PLATEAU_EPOCHS:
            self._factor *= FACTOR
            self._plateau = replace(self._plateau, epochs=0)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-ready state."""
        return {"factor": self._factor, "standstill": self._plateau.to_dict()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore what `to_dict()` returned."""
        self._factor = float(state["factor"])
        self._plateau = Plateau.from_dict(state["standstill"])


def build_schedule(config: TrialConfig, optimiser: torch.optim.Optimizer, updates: int) -> LearningRateSchedule:
    """Return the configuration's schedule over the `updates` optimiser updates of the run or phase."""
    warmup = min(round(config.warmup * updates), updates - 1)
    if config.schedule == "plateau":
        return PlateauSchedule(optimiser, warmup)
    timing: dict[str, Any] = {"warmup_t": warmup, "warmup_prefix": True, "t_in_epochs": False}
    if config.schedule == "constant":
        return UpdateSchedule(StepLRScheduler(optimiser, decay_t=updates, decay_rate=1.0, **timing))
    cycles = min(config.restarts + 1, updates - warmup) if config.schedule == "cosine-restarts" else 1
    # timm accepts a fraction; if rounded, the last cycle would not reach its lowest rate with the last update.
    length = (updates - warmup) / cycles
    return UpdateSchedule(CosineLRScheduler(optimiser, t_initial=cast("int", length), cycle_limit=cycles, **timing))
