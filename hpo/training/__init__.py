"""Training: `fit` makes model, loss and optimiser from a TrialConfig and yields one EpochResult after another."""

from hpo.training.loop import fit
from hpo.training.run import VERSION as SNAPSHOT_VERSION
from hpo.training.runtime import FitData, Runtime
from hpo.training.state import EpochResult, Snapshot

__all__ = ["SNAPSHOT_VERSION", "EpochResult", "FitData", "Runtime", "Snapshot", "fit"]
