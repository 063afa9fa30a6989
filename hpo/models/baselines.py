"""Baselines: classifiers without a parameter to train, which learn at most the share of each class.

Any trained model has to beat them. They are built, stored, evaluated and exported as trained models are.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from hpo.models.classifier import Classifier

BASELINES = ("random-guess", "majority-class")

UNNORMALISED = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
"""Mean and std of the images that a baseline takes: its pixels stay in [0, 1]."""

_LOW_32_BITS = 0xFFFFFFFF

_GOLDEN = 0x9E3779B9
"""2^32 divided by the golden ratio; its multiples spread evenly over 32 bits."""


def is_baseline(backbone: str) -> bool:
    """Return whether `backbone` names a baseline, which is not trained."""
    return backbone in BASELINES


def build_baseline(name: str, classes: int) -> Baseline:
    """Return a new baseline; `name` is one of BASELINES."""
    return _KINDS[name](classes)


class Baseline(Classifier):
    """(b, 3, S, S) float images in [0, 1] -> (b, classes) float32 logits, without a parameter to train."""

    priors: Tensor
    """(classes,) float32 shares of the classes in the training part, in the state dict; equal until `learn_priors`."""

    def __init__(self, classes: int) -> None:
        super().__init__(nn.Identity(), nn.Identity())
        self.register_buffer("priors", torch.full((classes,), 1 / classes))

    def learn_priors(self, labels: npt.NDArray[np.int64]) -> None:
        """Set the priors from the labels (n,) of the training part."""
        counts = np.bincount(labels, minlength=len(self.priors)) + 1  # one more each, so that none is impossible
        self.priors.copy_(torch.from_numpy(counts / counts.sum()))


class MajorityClass(Baseline):
    """Predicts the most common class for every image, with the probabilities that the training part has."""

    def forward(self, images: Tensor) -> Tensor:
        """Return the logarithms of the priors, repeated b times."""
        return self.priors.log().repeat(len(images), 1)


class RandomGuess(Baseline):
    """Predicts a random class for every image, each class equally often.

    Equal pixels get equal predictions, in any order, batch or device.
    """

    def forward(self, images: Tensor) -> Tensor:
        """Return pseudo-random numbers in [0, 1], one for each image and class."""
        pixels = (images.float() * 255).round().long().flatten(1)
        places = _mixed(torch.arange(1, pixels.shape[1] + 1, device=images.device))
        keys = _mixed((pixels * places).sum(dim=1) & _LOW_32_BITS)
        classes = torch.arange(1, len(self.priors) + 1, device=images.device) * _GOLDEN
        return _mixed((keys[:, None] + classes) & _LOW_32_BITS).float() / _LOW_32_BITS


def _mixed(values: Tensor) -> Tensor:
    """Apply the 32-bit finaliser of MurmurHash3 (Appleby 2011): int64 in [0, 2^32) -> the same, well mixed."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        # The product may overflow 64 bits; its low 32 bits, which are kept, are correct all the same.
        values = ((values ^ (values >> shift)) * factor) & _LOW_32_BITS
    return values ^ (values >> 16)


_KINDS: Mapping[str, type[Baseline]] = MappingProxyType({"majority-class": MajorityClass, "random-guess": RandomGuess})
