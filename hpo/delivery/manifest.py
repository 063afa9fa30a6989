"""The manifest of a bundle (config.json): what the weights are, how to feed them, where they come from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from hpo.errors import BundleError
from search_spaces import TrialConfig

FORMAT = 1
"""Version of the bundle's layout; a reader takes its own and older ones."""

RESIZE_RULE = "upright by EXIF; centre square; antialiased bicubic; over white where transparent"
"""What `hpo.data.decode` does to an image."""

Triple = tuple[float, float, float]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Preprocessing(_Section):
    """How an image becomes input: RGB, resized to a square, scaled to [0, 1], minus mean, over std."""

    image_size: int = Field(ge=1)
    mean: Triple
    std: Triple
    resize: str
    """The resize rule, in words."""


class DataOrigin(_Section):
    """Which data set the model was trained on, and how it was split: enough to make the same split again."""

    fingerprint: str
    split: str
    seed: int
    val_fraction: float
    test_fraction: float
    max_unreadable: float = 0.05
    """Share of images that may be unreadable before the data set is refused."""
    counts: dict[str, int] = {}
    """Images of each part."""


class Weights(_Section):
    """What the backbone started from: timm's own weights, a file, or nothing (both None, not pretrained)."""

    file: str | None = None
    """Name of the file, without its folder."""
    digest: str | None = None


class Manifest(_Section):
    """Everything in config.json but the layout's version and the digests of the other files."""

    stage: Literal["exported", "retrained"]
    study: str
    trial: int = Field(ge=0)
    metric: str
    """What selected the best epoch: accuracy, balanced_accuracy or macro_f1."""
    config: TrialConfig
    classes: tuple[str, ...] = Field(min_length=2)
    """Class names; a label is a position here."""
    preprocessing: Preprocessing
    epochs: int = Field(ge=1)
    """Epochs that these weights were trained for."""
    best_epoch: int = Field(ge=1)
    """The epoch of the trial that validation liked best."""
    curve: tuple[float, ...] = ()
    """The metric of each epoch of the trial: what a plateau schedule follows when there is nothing to validate on."""
    seed: int
    """Of the training."""
    data: DataOrigin
    weights: Weights
    versions: dict[str, str]

    @field_validator("classes")
    @classmethod
    def _distinct(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(classes)) < len(classes):
            raise ValueError("class names must differ")
        return classes

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values; `from_dict(to_dict(x)) == x`."""
        return self.model_dump(mode="json")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, source: str, way_out: str = "export it again") -> Manifest:
        """Validate `values`; the first broken rule raises BundleError naming `source`, key, rule and way out."""
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            key = ".".join(str(part) for part in first["loc"])
            raise BundleError(f"{source}: {key}: {first['msg']}; {way_out}") from None
