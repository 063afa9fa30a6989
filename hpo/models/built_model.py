"""From a TrialConfig to a classifier: backbone with its weights, head, frozen blocks, and mean and std of its input."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import nn

from hpo.errors import ModelError
from hpo.models.architecture import Description, describe
from hpo.models.backbone import check_known, create_backbone, feature_width
from hpo.models.baselines import UNNORMALISED, build_baseline, is_baseline
from hpo.models.classifier import Classifier, build_head, freeze
from hpo.models.normalisation import exchange_normalisation
from hpo.models.weights import WeightsReport, load_weights
from search_spaces import TrialConfig


@dataclass(frozen=True)
class BuiltModel:
    """A classifier and the preprocessing that its input needs."""

    model: Classifier
    mean: tuple[float, ...]
    """One value per channel, for images scaled to [0, 1]."""
    std: tuple[float, ...]
    weights: WeightsReport | None
    """Report on loading the weights file; None without a file."""
    features: int
    """Length of the pooled features that the head takes; 0 for a baseline, which has none."""
    origin: str
    """Source of the backbone's weights, in words: timm, a file, random, or none for a baseline."""


def build_model(config: TrialConfig, classes: int, *, initialise: bool = True) -> BuiltModel:
    """Build the configuration's classifier for `classes` classes.

    `pretrained` loads `weights`, or timm's own weights if no file is given; without `pretrained` the weights are
    random. The normalisation is exchanged after that. The head is always new. The blocks that train in the phase with
    the largest unfreeze depth are left trainable. `initialise=False` builds the architecture alone, for weights that
    the caller loads.
    Raises ModelError for an unknown backbone, and for weights that are not available or do not fit.
    """
    if is_baseline(config.backbone):
        return _built_baseline(config, classes, initialise=initialise)
    check_known(config.backbone)
    pretrained = initialise and config.pretrained
    from_file = Path(config.weights) if pretrained and config.weights else None
    described = describe(from_file) if from_file else Description()
    _refuse_other_architecture(config, described)
    from_timm = pretrained and from_file is None
    backbone = create_backbone(config, pretrained=from_timm)
    report = _load(backbone, config, from_file, described) if from_file else None
    if config.normalisation != "native":
        exchange_normalisation(backbone, config.normalisation)
    features = feature_width(backbone)
    model = Classifier(backbone, build_head(config, features, classes))
    freeze(model, config.deepest_phase().unfreeze_depth, config.unfreeze_from)
    origin = "timm" if from_timm else str(from_file or "random")
    mean, std = _preprocessing(backbone, described, report)
    return BuiltModel(model, mean, std, report, features, origin)


def _load(backbone: nn.Module, config: TrialConfig, file: Path, described: Description) -> WeightsReport:
    """Load the file's weights; the report names the file of its description, if there is one."""
    report = load_weights(backbone, config.backbone, file, config.normalisation)
    return report if described.source is None else replace(report, description=described.source.name)


def _built_baseline(config: TrialConfig, classes: int, *, initialise: bool) -> BuiltModel:
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
    """Return the mean and std that the weights were trained with: from the file's description, else from timm."""
    given = described.channels(grey=report is not None and report.grey)
    if given is not None:
        return given
    settings: dict[str, Any] = getattr(backbone, "pretrained_cfg", None) or {}
    return tuple(settings.get("mean") or IMAGENET_DEFAULT_MEAN), tuple(settings.get("std") or IMAGENET_DEFAULT_STD)


@dataclass(frozen=True)
class Trainability:
    """The result of `check_trainable`: the report on the weights, and counts of parameters."""

    weights: WeightsReport | None
    parameters: int
    trainable: int


def check_trainable(config: TrialConfig, classes: int) -> Trainability:
    """Build the model and run one blank image through it, so that faults are found before a study is created.

    Raises ModelError if the model cannot be built or does not take the image size.
    """
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
    """Return the numbers of all parameters and of the trainable ones."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(size for size, _ in sizes), sum(size for size, trains in sizes if trains)
