"""Model: TrialConfig -> backbone with its weights, head, frozen blocks, and the normalisation the weights expect."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from hpo.errors import ModelError
from hpo.training.checkpoint import Description, describe
from hpo.training.classifier import Classifier, build_head
from hpo.training.freeze import freeze
from hpo.training.hub import hub
from hpo.training.weights import WeightsReport, load_weights
from search_spaces import TrialConfig


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
    """Length of the pooled features that the head takes."""
    origin: str
    """Where the backbone's weights come from, in words: timm, a file, or random."""


def build_model(config: TrialConfig, classes: int, *, initialise: bool = True) -> BuiltModel:
    """Build the configuration's classifier for `classes` classes.

    `pretrained` loads `weights`, or timm's own where no file is given; without `pretrained` the weights are random.
    The head is always new. `initialise=False` builds the architecture alone, for weights that come from elsewhere.
    Raises ModelError for an unknown backbone and for weights that cannot be had or do not fit.
    """
    if not _known(config.backbone):
        raise ModelError(_unknown(config.backbone))
    from_file = Path(config.weights) if initialise and config.pretrained and config.weights else None
    described = describe(from_file) if from_file else Description()
    _refuse_other_architecture(config, described)
    from_timm = initialise and config.pretrained and not config.weights
    backbone = _from_timm(config) if from_timm else _create(config, pretrained=False)
    report = load_weights(backbone, config.backbone, from_file) if from_file else None
    features = _width(backbone)
    model = Classifier(backbone, build_head(config, features, classes))
    freeze(model, config.unfreeze_depth)
    origin = "timm" if from_timm else str(from_file or "random")
    mean, std = _normalisation(backbone, described)
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


def _known(backbone: str) -> bool:
    """Whether timm has the architecture and, where a name `architecture.tag` asks for them, the weights of that tag."""
    architecture, _, tag = backbone.partition(".")
    return timm.is_model(architecture) and (not tag or backbone in timm.list_pretrained(f"{architecture}.*"))


def _unknown(backbone: str) -> str:
    names = timm.list_pretrained() if "." in backbone else timm.list_models()
    near = difflib.get_close_matches(backbone, names, n=3, cutoff=0.5)
    hint = f"near it: {', '.join(near)}" if near else "`timm.list_models()` names them"
    return f"backbone is {backbone!r}, but must be the name of a timm model; {hint}"


def _refuse_other_architecture(config: TrialConfig, described: Description) -> None:
    ours = config.backbone.partition(".")[0]
    theirs = described.architecture.partition(".")[0] if described.architecture else ours
    if theirs != ours:
        raise ModelError(
            f"weights {config.weights} are of {theirs}, but the backbone is {ours}; "
            f"give --backbone {theirs}, or weights of {ours}"
        )


def _from_timm(config: TrialConfig) -> nn.Module:
    with hub(config.backbone):
        return _create(config, pretrained=True)


def _create(config: TrialConfig, *, pretrained: bool) -> nn.Module:
    """The bare backbone, with drop path where it has any; raises ModelError for an image size that it cannot take."""
    options: dict[str, Any] = {}
    if config.drop_path:
        options["drop_path_rate"] = config.drop_path
    fixed = _fixed_size(config.backbone)
    if fixed is not None and fixed != config.image_size:
        options["img_size"] = config.image_size
    while True:
        try:
            backbone: nn.Module = timm.create_model(config.backbone, pretrained=pretrained, num_classes=0, **options)
        except TypeError as error:
            _drop_refused(options, error, config, fixed)
        except AssertionError as error:
            raise ModelError(
                f"{config.backbone} cannot be built for images of {config.image_size} pixels: {error}"
            ) from error
        else:
            return backbone


def _drop_refused(options: dict[str, Any], error: TypeError, config: TrialConfig, fixed: int | None) -> None:
    """Take from `options` the one that the backbone does not know, where it may be missing."""
    found = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    refused = found[1] if found else ""
    if refused not in options:
        raise error
    if refused == "img_size":
        raise ModelError(f"image_size is {config.image_size}, but {config.backbone} takes {fixed} only") from error
    del options[refused]


def _fixed_size(backbone: str) -> int | None:
    """The image side that a backbone is made for and cannot leave by itself (transformers); None for the others."""
    settings = timm.models.get_pretrained_cfg(backbone)
    if settings is None or not settings.fixed_input_size:
        return None
    return int(settings.input_size[-1])


def _width(backbone: nn.Module) -> int:
    """Length of the pooled features."""
    width: int = getattr(backbone, "head_hidden_size", None) or backbone.num_features  # type: ignore[assignment]
    return width


def _normalisation(backbone: nn.Module, described: Description) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std that the weights were trained with: those beside the file, else timm's for the backbone."""
    settings: dict[str, Any] = getattr(backbone, "pretrained_cfg", None) or {}
    mean = described.mean or settings.get("mean") or timm.data.IMAGENET_DEFAULT_MEAN
    std = described.std or settings.get("std") or timm.data.IMAGENET_DEFAULT_STD
    return tuple(mean), tuple(std)
