"""Training: a TrialConfig becomes a model, a loss, an optimiser, and `fit` yields one EpochResult after another."""

from hpo.training.checkpoint import weights_digest, weights_file
from hpo.training.description import architecture_of
from hpo.training.inference import predict_logits
from hpo.training.loop import fit
from hpo.training.model import BuiltModel, Trainability, build_model, check_trainable
from hpo.training.result import EpochResult, Snapshot
from hpo.training.run import VERSION as SNAPSHOT_VERSION
from hpo.training.runtime import FitData, Runtime
from hpo.training.weights import WeightsReport

__all__ = [
    "SNAPSHOT_VERSION",
    "BuiltModel",
    "EpochResult",
    "FitData",
    "Runtime",
    "Snapshot",
    "Trainability",
    "WeightsReport",
    "architecture_of",
    "build_model",
    "check_trainable",
    "fit",
    "predict_logits",
    "weights_digest",
    "weights_file",
]
