"""TrialConfig: every choice of one training run, in one frozen, typed value.

The names of its fields are the names of the dimensions of a search space, of the keys under `fixed:` in a space
file, and of `--set key=value`. Values enter through `TrialConfig(...)` or `TrialConfig.from_dict(...)` and are
validated there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from search_spaces.errors import SpaceError

Optimiser = Literal["adamw", "rmsprop", "lion", "sgd", "adam", "nadam"]
Schedule = Literal["constant", "cosine", "cosine-restarts", "plateau"]
Loss = Literal["cross-entropy", "focal"]
ClassWeights = Literal["none", "inverse", "effective"]
AugmentationFamily = Literal["none", "flips", "geometric", "colour", "geometric-colour", "randaugment", "corruption"]
Activation = Literal["relu", "gelu", "silu"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]


class TrialConfig(BaseModel):
    """One training run. Frozen; unknown keys are refused; `from_dict(to_dict(x)) == x`."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    # What is trained
    backbone: str = Field("mobilenetv2_100", min_length=1, description="name of a timm model")
    pretrained: bool = Field(True, description="start from timm's weights, or from `weights` when given")
    weights: str | None = Field(None, description="path of a .safetensors or tensors-only .pth file")
    image_size: int = Field(224, ge=16, le=1024, description="side of the square input, in pixels")
    head_layers: int = Field(0, ge=0, le=3, description="hidden layers between pooled features and logits")
    head_units: int = Field(256, ge=8, le=8192, description="units of each hidden layer")
    head_activation: Activation = Field("silu", description="activation of the hidden layers")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout before each layer of the head")
    drop_path: float = Field(0.0, ge=0, lt=1, description="stochastic depth, where the backbone has it")
    unfreeze_depth: float = Field(
        1.0,
        ge=0,
        le=1,
        description="fraction of backbone blocks that train, counted from the head: 0 head only, 1 all",
    )

    # How it is optimised
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
    gradient_clip: float = Field(0.0, ge=0, description="largest norm of the gradient; 0 clips nothing")
    schedule: Schedule = Field(
        "cosine", description="learning-rate schedule, stepped per optimiser step (plateau: per epoch)"
    )
    warmup: float = Field(0.0, ge=0, lt=1, description="fraction of all steps spent in linear warm-up")
    restarts: int = Field(1, ge=1, le=20, description="warm restarts of `cosine-restarts`")
    ema: float = Field(0.0, ge=0, lt=1, description="decay of the weights' moving average; 0 keeps none")
    precision: Precision = Field("auto", description="auto measures on this machine which is faster")

    # What it is told
    loss: Loss = Field("cross-entropy", description="loss")
    focal_gamma: float = Field(2.0, ge=0, le=10, description="gamma of the focal loss (Lin et al. 2017)")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="label smoothing")
    class_weights: ClassWeights = Field(
        "none", description="inverse frequency, or effective number of samples (Cui et al. 2019)"
    )
    balanced_sampling: bool = Field(False, description="draw every class equally often")
    augmentation: AugmentationFamily = Field("geometric", description="family of image transformations")
    augmentation_strength: float = Field(0.5, ge=0, le=1, description="0 is none, 1 the strongest of the family")
    mixup: float = Field(0.0, ge=0, le=10, description="alpha of MixUp (Zhang et al. 2018); 0 is off")
    cutmix: float = Field(0.0, ge=0, le=10, description="alpha of CutMix (Yun et al. 2019); 0 is off")

    def to_dict(self) -> dict[str, Any]:
        """Every field as JSON-ready values, in declaration order."""
        return self.model_dump(mode="json")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, source: str | None = None) -> TrialConfig:
        """Validate `values`; the first broken rule raises SpaceError naming `source`, key, value and rule."""
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise SpaceError(_first_rule(error), source=source) from None

    def replace(self, **changes: Any) -> TrialConfig:
        """A validated copy with some fields changed."""
        return self.from_dict({**self.to_dict(), **changes})


def _first_rule(error: ValidationError) -> str:
    """The first broken rule of a pydantic error, in one line: key, value, rule."""
    first = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"{key}: no such key; the keys are {', '.join(TrialConfig.model_fields)}"
    rule = first["msg"].replace("Input should be", "must be", 1)
    return f"{key} is {first['input']!r}, but {rule}"
