"""TrialConfig: every choice of one training run, in one frozen, typed value.

The names of its fields are the names of the dimensions of a search space, of the keys under `fixed:` in a space
file, and of `--set key=value`; those of its phases are written `phase1.learning_rate`, `phase2.unfreeze_depth`, ….
Values enter through `TrialConfig(...)` or `TrialConfig.from_dict(...)` and are validated there.

A phase inherits from the run the values that it does not set. Its epochs are a share: if the run's `epochs` are given
too, the phases are scaled to add up to them, so that one recipe serves a run of three epochs and one of fifty.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_serializer, model_validator

from search_spaces.errors import SpaceError, rule_in_words

Optimiser = Literal["adamw", "rmsprop", "lion", "sgd", "adam", "nadam"]

Schedule = Literal["constant", "cosine", "cosine-restarts", "plateau"]

Unfreezing = Literal["at-once", "gradual"]

UnfreezeFrom = Literal["head", "stem", "middle"]

PHASE_KEY = re.compile(r"phase([1-9][0-9]?)\.(\w+)")
"""The flat name of a phase's field: `phase2.learning_rate`; phases count from 1, up to 99."""


class Phase(BaseModel):
    """Consecutive epochs of a run and the values that they change; None keeps the value of the run."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    epochs: int = Field(ge=1, le=10_000, description="epochs; a share where those of the run are given too")
    unfreeze_depth: float | None = Field(None, ge=0, le=1, description="fraction of backbone blocks that train")
    unfreezing: Unfreezing | None = Field(
        None, description="gradual goes block by block from the depth of the phase before"
    )
    optimiser: Optimiser | None = Field(None, description="optimiser; keeps its state where it stays the same")
    learning_rate: float | None = Field(None, gt=0, le=100, description="peak learning rate of the head")
    backbone_lr_ratio: float | None = Field(
        None, gt=0, le=10, description="learning rate of the backbone over that of the head"
    )
    layer_decay: float | None = Field(None, gt=0, le=1, description="factor on the learning rate per block, going down")
    weight_decay: float | None = Field(None, ge=0, le=10, description="weight decay")
    schedule: Schedule | None = Field(None, description="learning-rate schedule; it begins anew with the phase")
    warmup: float | None = Field(None, ge=0, lt=1, description="fraction of the phase's steps spent in warm-up")
    restarts: int | None = Field(None, ge=1, le=20, description="warm restarts of `cosine-restarts`")


def folded(values: Mapping[str, Any]) -> dict[str, Any]:
    """Fold the keys `phaseN.field` of `values` into the list `phases`; ValueError if a number is missing."""
    plain: dict[str, Any] = {}
    phases = {i: _plain(phase) for i, phase in enumerate(values.get("phases") or (), start=1)}
    for key, value in values.items():
        match = PHASE_KEY.fullmatch(key)
        if match:
            phases.setdefault(int(match[1]), {})[match[2]] = value
        elif key != "phases":
            plain[key] = value
    missing = next((n for n in range(1, max(phases, default=0) + 1) if "epochs" not in phases.get(n, {})), None)
    if missing is not None:
        raise ValueError(f"phase{missing}.epochs is missing, but every phase up to the last has its epochs")
    return {**plain, "phases": [phases[n] for n in sorted(phases)]} if phases else plain


def scaled(values: Mapping[str, Any]) -> dict[str, Any]:
    """Scale the epochs of the phases in `values` to add up to `epochs`; ValueError for fewer epochs than phases.

    Values that pydantic refuses (an `epochs` that is not a number) are left to pydantic.
    """
    phases = values.get("phases") or []
    shares = [_count(phase["epochs"]) for phase in phases]
    total = _count(values.get("epochs", sum(shares)))
    if not shares or not all(shares) or not total:
        return dict(values)
    if total < len(shares):
        raise ValueError(f"epochs is {total}, but must be at least {len(shares)}: one for each phase")
    epochs = apportioned(total, shares)
    return {**values, "epochs": total, "phases": [{**p, "epochs": n} for p, n in zip(phases, epochs, strict=True)]}


def apportioned(total: int, shares: Sequence[int]) -> list[int]:
    """Divide `total` >= len(shares) into whole parts of at least 1, as close to the proportion of `shares` as possible.

    Method of largest remainders; shares that add up to `total` stay as they are.
    """
    exact = [total * share / sum(shares) for share in shares]
    parts = [max(1, int(part)) for part in exact]
    while sum(parts) != total:
        step = 1 if sum(parts) < total else -1
        able = [i for i in range(len(parts)) if parts[i] + step >= 1]
        nearest = max(able, key=lambda i: step * (exact[i] - parts[i]))
        parts[nearest] += step
    return parts


def _count(value: Any) -> int:
    """Read a whole number above 0 as pydantic does, from text and floats too; 0 for a value that it refuses."""
    try:
        count = int(value)
    except (TypeError, ValueError):
        return 0
    return count if count > 0 and float(value) == count else 0


def _plain(phase: Any) -> dict[str, Any]:
    return phase.model_dump(exclude_none=True) if isinstance(phase, Phase) else dict(phase)


Loss = Literal["cross-entropy", "focal", "balanced-softmax"]

ClassWeights = Literal["none", "inverse", "effective"]

AugmentationFamily = Literal[
    "none", "flips", "geometric", "colour", "geometric-colour", "randaugment", "corruption", "mixture"
]

Symmetry = Literal["none", "mirror", "dihedral"]

Background = Literal["keep", "mask"]

Normalisation = Literal["native", "frozen-batch", "group", "layer"]

Activation = Literal["relu", "gelu", "silu"]

Precision = Literal["auto", "fp32", "bf16", "fp16"]

FORMER_DEFAULTS: Mapping[str, Any] = MappingProxyType({"symmetry": "dihedral"})
"""Fields added later -> the behaviour of runs from before: the value to assume for a stored form without the field."""

ADDED_DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {"oversample_to": 0, "background": "keep", "unfreeze_from": "head"}
)
"""Fields added later whose default is that behaviour. Fingerprints leave these values out, so that earlier studies keep
theirs."""


class TrialConfig(BaseModel):
    """All choices of one training run. Frozen; unknown keys are refused; `from_dict(to_dict(x)) == x`."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    # Model
    backbone: str = Field("mobilenetv2_100", min_length=1, description="name of a timm model")
    pretrained: bool = Field(True, description="start from timm's weights, or from `weights` when given")
    weights: str | None = Field(None, description="path of a .safetensors or tensors-only .pth file")
    normalisation: Normalisation = Field(
        "native",
        description="what the backbone's BatchNorm becomes: stays, frozen statistics, GroupNorm or LayerNorm",
    )
    image_size: int = Field(224, ge=16, le=1024, description="side of the square input, in pixels")
    background: Background = Field(
        "keep",
        description="mask replaces what is not the object in the centre by the mean colour of the background, found in "
        "each image by colour and shape; where no object can be told from it, the image stays as it is",
    )
    head_layers: int = Field(0, ge=0, le=3, description="hidden layers between pooled features and logits")
    head_units: int = Field(256, ge=8, le=8192, description="units of each hidden layer")
    head_activation: Activation = Field("silu", description="activation of the hidden layers")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout before each layer of the head")
    drop_path: float = Field(0.0, ge=0, lt=1, description="stochastic depth, where the backbone has it")
    unfreeze_depth: float = Field(
        1.0,
        ge=0,
        le=1,
        description="fraction of backbone blocks that train, counted from `unfreeze_from`: 0 head only, 1 all",
    )
    unfreeze_from: UnfreezeFrom = Field(
        "head",
        description="which blocks train beside the head where not all do: the last, the first or the middle ones "
        "(surgical fine-tuning, Lee et al. 2023: other images want the first, other classes the last)",
    )
    unfreezing: Unfreezing = Field(
        "at-once", description="gradual reaches unfreeze_depth block by block, evenly over the epochs"
    )

    # Optimisation
    epochs: int = Field(10, ge=1, le=10_000, description="epochs of a full run; the pruner may end it sooner")
    batch_size: int = Field(64, ge=1, le=65_536, description="images per optimiser step")
    optimiser: Optimiser = Field("adamw", description="optimiser, from timm's factory")
    learning_rate: float = Field(1e-3, gt=0, le=100, description="peak learning rate of the head")
    backbone_lr_ratio: float = Field(
        1.0, gt=0, le=10, description="learning rate of the backbone over that of the head"
    )
    layer_decay: float = Field(1.0, gt=0, le=1, description="factor on the learning rate per block, going down")
    weight_decay: float = Field(0.05, ge=0, le=10, description="weight decay (decoupled where the optimiser is)")
    l1: float = Field(0.0, ge=0, le=1, description="L1 penalty on the head's weights")
    l2: float = Field(0.0, ge=0, le=1, description="L2 penalty on the head's weights, in the loss")
    gradient_clip: float = Field(0.0, ge=0, description="largest norm of the gradient; 0 clips nothing")
    schedule: Schedule = Field(
        "cosine", description="learning-rate schedule, stepped per optimiser step (plateau: per epoch)"
    )
    warmup: float = Field(0.0, ge=0, lt=1, description="fraction of all steps spent in linear warm-up")
    restarts: int = Field(1, ge=1, le=20, description="warm restarts of `cosine-restarts`")
    patience: int = Field(
        0, ge=0, description="epochs without a better score, once all is unfrozen, that end the run; 0 never does"
    )
    ema: float = Field(0.0, ge=0, lt=1, description="decay of the weights' moving average; 0 keeps none")
    precision: Precision = Field("auto", description="auto measures on this machine which is faster")

    # Loss and data
    loss: Loss = Field("cross-entropy", description="loss")
    focal_gamma: float = Field(2.0, ge=0, le=10, description="gamma of the focal loss (Lin et al. 2017)")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="label smoothing")
    class_weights: ClassWeights = Field(
        "none", description="inverse frequency, or effective number of samples (Cui et al. 2019)"
    )
    balanced_sampling: bool = Field(False, description="draw every class equally often")
    oversample_to: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="images that smaller classes are drawn up to in each epoch, every draw augmented anew; 0 is off",
    )
    symmetry: Symmetry = Field(
        "none",
        description="what labels survive: no mirror image, left-right mirroring, or all flips and quarter turns",
    )
    augmentation: AugmentationFamily = Field("geometric", description="family of image transformations")
    augmentation_strength: float = Field(0.5, ge=0, le=1, description="0 is none, 1 the strongest of the family")
    randaugment_operations: int = Field(2, ge=1, le=8, description="operations per image of `randaugment`")
    augmix: float = Field(
        0.0, ge=0, le=1, description="strength of AugMix (Hendrycks et al. 2020), after the family; 0 is off"
    )
    augmix_consistency: float = Field(
        0.0, ge=0, le=100, description="weight of AugMix's Jensen-Shannon consistency loss; the paper's is 12"
    )
    channel_shuffle: float = Field(0.0, ge=0, le=1, description="share of images whose channels are permuted")
    gridmask: float = Field(0.0, ge=0, le=1, description="strength of GridMask (Chen et al. 2020); 0 is off")
    cutout: float = Field(0.0, ge=0, le=1, description="strength of CutOut (DeVries and Taylor 2017); 0 is off")
    masking: float = Field(
        0.0,
        ge=0,
        le=1,
        description="augmentation: strength of masking what lies outside a circle about the centre, whatever is there "
        "(for the object itself see `background`); 0 is off",
    )
    mixup: float = Field(0.0, ge=0, le=10, description="alpha of MixUp (Zhang et al. 2018); 0 is off")
    cutmix: float = Field(0.0, ge=0, le=10, description="alpha of CutMix (Yun et al. 2019); 0 is off")

    # Validation
    validation_augmented: float = Field(
        0.0, ge=0, le=1, description="share of the validation images under RandAugment, the same for all trials"
    )

    # Phases
    phases: tuple[Phase, ...] = Field(
        (), description="phases one after the other, each with its epochs and what it changes; none: one phase"
    )

    @model_validator(mode="before")
    @classmethod
    def _phased(cls, values: Any) -> Any:
        """Fold keys like `phase1.epochs` into `phases`, and scale their epochs to add up to `epochs`."""
        return scaled(folded(values)) if isinstance(values, Mapping) else values

    @model_validator(mode="after")
    def _check_augmentation(self) -> Self:
        if self.augmix_consistency and not self.augmix:
            raise ValueError("augmix_consistency needs augmix > 0: it compares an image with its AugMix views")
        if self.augmix_consistency and (self.mixup or self.cutmix):
            raise ValueError("augmix_consistency excludes mixup and cutmix: mixed images have no views to compare")
        if self.augmentation == "flips" and self.augmentation_strength and self.symmetry == "none":
            raise ValueError(
                "augmentation flips would do nothing under symmetry none: give symmetry mirror or dihedral where "
                "labels survive it, or another family"
            )
        return self

    @model_validator(mode="after")
    def _check_balance_and_normalisation(self) -> Self:
        if self.loss == "balanced-softmax" and (self.balanced_sampling or self.class_weights != "none"):
            raise ValueError("loss balanced-softmax excludes balanced_sampling and class_weights: each mends the same")
        if self.oversample_to and self.balanced_sampling:
            raise ValueError("oversample_to excludes balanced_sampling: each decides how often a class is drawn")
        if self.normalisation == "frozen-batch" and not self.pretrained:
            raise ValueError("normalisation frozen-batch needs pretrained weights, whose statistics it keeps")
        return self

    @field_serializer("phases")
    def _set_values(self, phases: tuple[Phase, ...]) -> list[dict[str, Any]]:
        return [phase.model_dump(mode="json", exclude_none=True) for phase in phases]

    def to_dict(self) -> dict[str, Any]:
        """Return every field as a JSON-ready value, in declaration order."""
        return self.model_dump(mode="json")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, source: str | None = None) -> TrialConfig:
        """Validate `values`; the first broken rule raises SpaceError naming `source`, key, value and rule."""
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise SpaceError(_first_rule(error), source=source) from None

    @classmethod
    def from_stored(cls, values: Mapping[str, Any], *, source: str | None = None) -> TrialConfig:
        """Read what `to_dict` returned, now or in an earlier version; a missing field keeps the former behaviour."""
        return cls.from_dict({**FORMER_DEFAULTS, **values}, source=source)

    def phase_configs(self) -> tuple[TrialConfig, ...]:
        """Return one configuration per phase, in order: the run with the phase's values and epochs, without phases."""
        if not self.phases:
            return (self,)
        run = {key: value for key, value in self.to_dict().items() if key != "phases"}
        return tuple(self.from_dict({**run, **phase.model_dump(exclude_none=True)}) for phase in self.phases)

    def deepest_phase(self) -> TrialConfig:
        """Return the configuration of the phase in which most of the backbone trains, the first of equals."""
        return max(self.phase_configs(), key=lambda phase: phase.unfreeze_depth)

    def replace(self, **changes: Any) -> TrialConfig:
        """Return a validated copy with some fields changed."""
        return self.from_dict({**self.to_dict(), **changes})


def _first_rule(error: ValidationError) -> str:
    """Return the first broken rule of a pydantic error in one line: key, value, rule."""
    first = error.errors(include_url=False)[0]
    key = _key(first["loc"])
    if first["type"] == "extra_forbidden":
        return f"{key}: no such key; the keys are {', '.join(TrialConfig.model_fields)}"
    rule = rule_in_words(first)
    if first["type"] == "value_error":  # a rule about several fields names them itself
        return rule
    return f"{key} is {first['input']!r}, but {rule}"


def _key(location: tuple[int | str, ...]) -> str:
    """Return `learning_rate`, or `phase2.learning_rate` for a field of a phase."""
    if location[:1] == ("phases",) and len(location) > 1 and isinstance(location[1], int):
        return ".".join([f"phase{location[1] + 1}", *(str(part) for part in location[2:])])
    return ".".join(str(part) for part in location)
