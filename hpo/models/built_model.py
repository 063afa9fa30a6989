"""Baselines: classifiers without a parameter, which learn the share of each class at most.

Any trained model has to beat them. They are built, stored, evaluated and exported like one.

Model: TrialConfig -> backbone with its weights, head, frozen blocks, and the normalisation the weights expect.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from hpo.errors import ModelError
from hpo.models.architecture import Description, describe
from hpo.models.backbone import check_known, create_backbone, feature_width
from hpo.models.classifier import Classifier, build_head, freeze, largest_unfreeze_depth
from hpo.models.normalisation import exchange_normalisation
from hpo.models.registered_backbones import is_baseline
from hpo.models.weights import WeightsReport, load_weights
from search_spaces import TrialConfig

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
    """The baseline called `name`, one of `hpo.models.registered_backbones.BASELINES`."""
    return _KINDS[name](classes)


def _mixed(values: Tensor) -> Tensor:
    """int64 in [0, 2^32) -> the same, well mixed: the 32-bit finaliser of MurmurHash3 (Appleby 2011).

    A product may leave 64 bits; the low 32 of them, which are kept, are right all the same.
    """
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        values = ((values ^ (values >> shift)) * factor) & _LOW_32_BITS
    return values ^ (values >> 16)


_KINDS: Mapping[str, type[Baseline]] = MappingProxyType({"majority-class": MajorityClass, "random-guess": RandomGuess})


@dataclass(frozen=True)
class BuiltModel:
    """A classifier, and what an image must go through before it."""

    model: Classifier
    mean: tuple[float, ...]
    """Per channel, of images scaled to [0, 1]."""
    std: tuple[float, ...]
    weights: WeightsReport | None
    """What became of the weights file; None without one."""
    features: int
    """Length of the pooled features that the head takes; 0 for a baseline, which has none."""
    origin: str
    """Where the backbone's weights come from, in words: timm, a file, random, or none for a baseline."""


def build_model(config: TrialConfig, classes: int, *, initialise: bool = True) -> BuiltModel:
    """Build the configuration's classifier for `classes` classes.

    `pretrained` loads `weights`, or timm's own where no file is given; without `pretrained` the weights are random.
    Normalisation is exchanged after that. The head is always new. What trains in the deepest phase is left trainable.
    `initialise=False` builds the architecture alone, for weights that come from elsewhere.
    Raises ModelError for an unknown backbone and for weights that cannot be had or do not fit.
    """
    if is_baseline(config.backbone):
        return _baseline(config, classes, initialise=initialise)
    check_known(config.backbone)
    from_file = Path(config.weights) if initialise and config.pretrained and config.weights else None
    described = describe(from_file) if from_file else Description()
    _refuse_other_architecture(config, described)
    from_timm = initialise and config.pretrained and not config.weights
    backbone = create_backbone(config, pretrained=from_timm)
    report = load_weights(backbone, config.backbone, from_file, config.normalisation) if from_file else None
    if config.normalisation != "native":
        exchange_normalisation(backbone, config.normalisation)
    features = feature_width(backbone)
    model = Classifier(backbone, build_head(config, features, classes))
    freeze(model, largest_unfreeze_depth(config))
    origin = "timm" if from_timm else str(from_file or "random")
    mean, std = _preprocessing(backbone, described, report)
    if report is not None and described.source is not None:
        report = replace(report, description=described.source.name)
    return BuiltModel(model, mean, std, report, features, origin)


@dataclass(frozen=True)
class Trainability:
    """What `check_trainable` found."""

    weights: WeightsReport | None
    parameters: int
    trainable: int


def check_trainable(config: TrialConfig, classes: int) -> Trainability:
    """Build the model once and run one blank image through it, before a study is created. Raises ModelError."""
    model = build_model(config, classes)
    size = config.image_size
    try:
        with torch.inference_mode():
            model.model.eval()(torch.zeros(1, 3, size, size))
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"image_size is {size}, but {config.backbone} takes no such image: {reason}") from error
    return Trainability(model.weights, *count_parameters(model.model))


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """All parameters, and those that train."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(size for size, _ in sizes), sum(size for size, trains in sizes if trains)


def _baseline(config: TrialConfig, classes: int, *, initialise: bool) -> BuiltModel:
    if initialise and config.pretrained:
        raise ModelError(f"{config.backbone} is a baseline and has no pretrained weights: give --set pretrained=false")
    if config.normalisation != "native":
        raise ModelError(
            f"normalisation is {config.normalisation!r}, but {config.backbone} is a baseline, so it must be native"
        )
    return BuiltModel(build_baseline(config.backbone, classes), *UNNORMALISED, weights=None, features=0, origin="none")


def _refuse_other_architecture(config: TrialConfig, described: Description) -> None:
    ours = config.backbone.partition(".")[0]
    theirs = described.architecture.partition(".")[0] if described.architecture else ours
    if theirs != ours:
        raise ModelError(
            f"weights {config.weights} are of {theirs}, but the backbone is {ours}; "
            f"give --backbone {theirs}, or weights of {ours}"
        )


def _preprocessing(
    backbone: nn.Module, described: Description, report: WeightsReport | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std that the weights were trained with: those beside the file, else timm's for the backbone."""
    given = described.channels(grey=report is not None and report.grey)
    if given is not None:
        return given
    settings: dict[str, Any] = getattr(backbone, "pretrained_cfg", None) or {}
    return tuple(settings.get("mean") or IMAGENET_DEFAULT_MEAN), tuple(settings.get("std") or IMAGENET_DEFAULT_STD)
