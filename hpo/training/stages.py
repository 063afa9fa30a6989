"""Stages of a run: which blocks train in which epochs, from its phases and the steps of gradual unfreezing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from hpo.models.classifier import trainable_blocks
from search_spaces import TrialConfig


@dataclass(frozen=True)
class Stage:
    """Consecutive epochs in which the same blocks train with the same settings."""

    settings: TrialConfig
    """Settings of the phase."""
    blocks: int
    """Blocks of the backbone that train, counted from `settings.unfreeze_from`."""
    epochs: range
    """Epochs of the run, from 0."""
    phase: range
    """The epochs of the whole phase, which the schedule spans."""


def plan_stages(config: TrialConfig, blocks: int) -> tuple[Stage, ...]:
    """Return the stages, from epoch 0 to the last, of a run whose backbone has `blocks` blocks."""
    stages: list[Stage] = []
    for settings in config.phase_configs():
        start, before = (stages[-1].epochs.stop, stages[-1].blocks) if stages else (0, -1)
        phase = range(start, start + settings.epochs)
        spread = _spread(_levels(settings, blocks, before), phase)
        stages += [Stage(settings, level, epochs, phase) for level, epochs in spread]
    return tuple(stages)


def _levels(settings: TrialConfig, blocks: int, before: int) -> Sequence[int]:
    """Return the numbers of trainable blocks, step by step, in a phase after one that ended with `before` blocks.

    `before` is -1 in the first phase. Gradual unfreezing adds one block at a time, and begins with the head alone in
    the first phase, as in ULMFiT (Howard and Ruder 2018, arXiv 1801.06146, section 3.3).
    """
    reached = trainable_blocks(blocks, settings.unfreeze_depth)
    gradual = settings.unfreezing == "gradual" and reached > before
    return range(before + 1, reached + 1) if gradual else [reached]


def _spread(levels: Sequence[int], epochs: range) -> list[tuple[int, range]]:
    """Spread the levels evenly over the epochs; levels are left out if there are fewer epochs than levels."""
    bounds = [number * len(epochs) // len(levels) for number in range(len(levels) + 1)]
    spans = zip(levels, pairwise(bounds), strict=True)
    return [(level, epochs[first:end]) for level, (first, end) in spans if first < end]


def stage_at(stages: Sequence[Stage], epoch: int) -> int:
    """Return the number, from 0, of the stage that epoch number `epoch`, from 0, belongs to."""
    return next(number for number, stage in enumerate(stages) if epoch in stage.epochs)


def last_phase(config: TrialConfig) -> range:
    """Return the epochs, from 0, of the last phase; all epochs of a run of one phase."""
    return range(config.epochs - config.phase_configs()[-1].epochs, config.epochs)
