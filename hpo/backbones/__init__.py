"""Backbones that timm does not ship, registered with timm by importing this package; baselines; other normalisations.

They are built by `hpo.training.build_model`, by name, like any backbone of timm.
"""

from hpo.backbones.baselines import BASELINES, is_baseline
from hpo.backbones.efficientnets import deepefficientnet, efficientnetlite
from hpo.backbones.normalisation import FrozenBatchNorm, exchange_normalisation
from hpo.backbones.plain_cnn import PlainCnn, cnn3, simplecnn

__all__ = [
    "BASELINES",
    "FrozenBatchNorm",
    "PlainCnn",
    "cnn3",
    "deepefficientnet",
    "efficientnetlite",
    "exchange_normalisation",
    "is_baseline",
    "simplecnn",
]
