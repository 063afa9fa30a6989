"""Inputs of a run besides its configuration: the data, and where and how it runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpo.data.dataset import Part
from hpo.device import cores
from hpo.evaluation.altered_part import AlteredPart
from hpo.interruption import ShouldStop, never


@dataclass(frozen=True)
class FitData:
    """The parts to train and validate on; both of one packed set."""

    train: Part
    val: Part | None
    """None for a retrain on all images, which has none left to validate on."""
    classes: int
    altered: AlteredPart | None = None
    """The altered part, where each epoch is measured on it too."""


@dataclass(frozen=True)
class Runtime:
    """Settings of a run that the search does not choose."""

    device: str = "cpu"
    seed: int = 0
    cache: Path | None = None
    """Folder of the autotune cache: the measured precision, and how many images fit into the memory at a time. With
    None nothing is measured or stored."""
    metric: str = "accuracy"
    """Key of `EpochResult.metrics` that the plateau schedule and early stopping watch."""
    robustness: float = 0.0
    """Weight of the altered part in what these watch: see `hpo.evaluation.metrics.combined`."""
    scores: Sequence[float] = ()
    """Without a validation part: that value of each epoch in an earlier run of the same configuration, so that the
    plateau schedule and early stopping act in the same epochs as there. Beyond its end the training loss is used."""
    should_stop: ShouldStop = never
    """Called between two steps, between two batches of validation or of feature extraction, and while the compute
    format is measured; True ends the run with TrainingInterrupted."""
    on_step: Callable[[float], None] = lambda position: None
    """Called after each step with the epochs done, including the fraction of the current one: 2.25 is a quarter into
    the third epoch."""
    threads: int | None = None
    """Threads that prepare batches during the steps; None means one on a CPU, since the steps need its cores, and up to
    eight with a GPU. The result is the same for any number."""

    @property
    def preparing(self) -> int:
        """Number of threads that prepare batches."""
        if self.threads is not None:
            return self.threads
        return min(8, cores()) if self.device.startswith("cuda") else 1
