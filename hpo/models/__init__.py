"""Networks: how they are built, fed with images, and run forward. No code here trains them."""

from hpo.models.architecture import architecture_of
from hpo.models.built_model import BuiltModel, Trainability, build_model, check_trainable
from hpo.models.inference import Predictor
from hpo.models.weights import WeightsReport
from hpo.models.weights_file import weights_digest, weights_file

__all__ = [
    "BuiltModel",
    "Predictor",
    "Trainability",
    "WeightsReport",
    "architecture_of",
    "build_model",
    "check_trainable",
    "weights_digest",
    "weights_file",
]
