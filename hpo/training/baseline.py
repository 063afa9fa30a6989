"""Baselines: classifiers without a parameter, which learn the share of each class at most.

Any trained model has to beat them. They are built, stored, evaluated and exported like one.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from hpo.training.classifier import Classifier

UNNORMALISED = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
"""Mean and std of the images that a baseline takes: its pixels stay in [0, 1]."""

_LOW_32_BITS = 0xFFFFFFFF
_GOLDEN = 0x9E3779B9


class Baseline(Classifier):
    """(b, 3, S, S) float images in [0, 1] -> (b, classes) float32 logits, without a parameter to train."""

    priors: Tensor
    """(classes,) float32 shares of the classes in the training part, in the state dict; equal until `learn_priors`."""

    def __init__(self, classes: int) -> None:
        super().__init__(nn.Identity(), nn.Identity())
        self.register_buffer("priors", torch.full((classes,), 1 / classes))

    def learn_priors(self, labels: npt.NDArray[np.int64]) -> None:
        """Take the shares from the labels (n,) of the training part; one more of each, so that none is impossible."""
        counts = np.bincount(labels, minlength=len(self.priors)) + 1
        self.priors.copy_(torch.from_numpy(counts / counts.sum()))


class MajorityClass(Baseline):
    """The commonest class for every image, as probable as it was common."""

    def forward(self, images: Tensor) -> Tensor:
        """The logarithms of the priors, b times."""
        return self.priors.log().repeat(len(images), 1)


class RandomGuess(Baseline):
    """A class for every image, each equally often: the same for equal pixels, whatever the order, batch or device."""

    def forward(self, images: Tensor) -> Tensor:
        """Pseudo-random numbers in [0, 1], one for each image and class."""
        pixels = (images.float() * 255).round().long().flatten(1)
        places = _mixed(torch.arange(1, pixels.shape[1] + 1, device=images.device))
        keys = _mixed((pixels * places).sum(dim=1) & _LOW_32_BITS)
        classes = torch.arange(1, len(self.priors) + 1, device=images.device) * _GOLDEN
        return _mixed((keys[:, None] + classes) & _LOW_32_BITS).float() / _LOW_32_BITS


def build_baseline(name: str, classes: int) -> Baseline:
    """The baseline called `name`, one of `hpo.backbones.BASELINES`."""
    return _KINDS[name](classes)


def _mixed(values: Tensor) -> Tensor:
    """int64 in [0, 2^32) -> the same, well mixed: the 32-bit finaliser of MurmurHash3 (Appleby 2011).

    A product may leave 64 bits; the low 32 of them, which are kept, are right all the same.
    """
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        values = ((values ^ (values >> shift)) * factor) & _LOW_32_BITS
    return values ^ (values >> 16)


_KINDS: Mapping[str, type[Baseline]] = MappingProxyType({"majority-class": MajorityClass, "random-guess": RandomGuess})
