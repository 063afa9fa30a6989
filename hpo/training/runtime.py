"""What a run is given besides its configuration: the data, and where and how it runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpo.data.dataset import Part
from hpo.device import cores
from hpo.interruption import ShouldStop, never


@dataclass(frozen=True)
class FitData:
    """The parts to train and validate on; both of one packed set."""

    train: Part
    val: Part | None
    """None when there is nothing to validate on: a retrain on everything."""
    classes: int


@dataclass(frozen=True)
class Runtime:
    """Where a run runs. None of it is a choice of the search."""

    device: str = "cpu"
    seed: int = 0
    cache: Path | None = None
    """Folder that remembers the measured precision, and how many images fit into the memory at a time; None measures
    and remembers nothing."""
    metric: str = "accuracy"
    """Key of `EpochResult.metrics` that the plateau schedule and early stopping watch."""
    scores: Sequence[float] = ()
    """Without a validation part: the metric of each epoch as another run of the same configuration saw it, so that a
    plateau schedule steps where it stepped there, and early stopping ends where it ended there. Beyond its end the
    training loss stands in."""
    should_stop: ShouldStop = never
    """Asked between two steps, between two batches of validation or of feature extraction, and while the compute format
    is measured; True ends the run with TrainingInterrupted."""
    on_step: Callable[[float], None] = lambda position: None
    """Told after each step how many epochs are done, the fraction under way included: 2.25 is a quarter into the third
    epoch."""
    threads: int | None = None
    """Threads that prepare batches beside the steps; None is one on a CPU, which the steps need themselves, and up to
    eight beside a GPU. The result is the same for any number."""

    @property
    def preparing(self) -> int:
        """Threads that prepare batches."""
        if self.threads is not None:
            return self.threads
        return min(8, cores()) if self.device.startswith("cuda") else 1
