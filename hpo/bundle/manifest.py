"""The predictions on the validation part that a bundle carries: what calibration and abstention start from.

The manifest of a bundle (config.json): what the weights are, how to feed them, where they come from.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from hpo.data import DataOrigin
from hpo.errors import BundleError
from hpo.evaluation.metrics import Logits
from hpo.private_paths import public_config
from search_spaces import FORMER_DEFAULTS, TrialConfig


class Validation(NamedTuple):
    """Predictions on the validation part, in its order."""

    labels: npt.NDArray[np.int64]
    """(n,) int64."""
    logits: npt.NDArray[np.float32]
    """(n, C) float32, before calibration."""

    def fits(self, classes: int) -> bool:
        """Whether these are finite predictions of that many classes, under labels among them."""
        labels, logits = self
        if logits.shape[1] != classes or not np.isfinite(logits).all():
            return False
        return bool(np.issubdtype(labels.dtype, np.integer) and ((labels >= 0) & (labels < classes)).all())

    def to_bytes(self, crossed: Logits | None = None) -> bytes:
        """As an .npz, with `crossed` of `Bundle.crossed` where there is one; the same arrays give the same bytes."""
        buffer = io.BytesIO()
        labels, logits = self.labels.astype(np.int64), self.logits.astype(np.float32)
        if crossed is None:
            np.savez(buffer, labels=labels, logits=logits)
        else:
            np.savez(buffer, labels=labels, logits=logits, crossed=crossed.astype(np.float32))
        return buffer.getvalue()


def read_validation(content: bytes, *, source: Path) -> tuple[Validation, Logits | None]:
    """What `to_bytes` was given; BundleError naming `source` for anything else."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            found = Validation(arrays["labels"], arrays["logits"])
            crossed = arrays.get("crossed")
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise BundleError(f"{source} holds no predictions ({error}); export the bundle again") from None
    if found.labels.shape != found.logits.shape[:1] or found.logits.ndim != 2:
        shapes = f"labels {found.labels.shape}, logits {found.logits.shape}"
        raise BundleError(f"{source} has {shapes}, but must have (n,) and (n, C); export the bundle again")
    if crossed is not None and crossed.shape != found.logits.shape:
        raise BundleError(f"{source} has logits {found.logits.shape} and crossed {crossed.shape}; export it again")
    return found, crossed


FORMAT = 3
"""Version of the bundle's layout; a reader takes its own and older ones. 2 adds calibration, validation and members;
3 how many trials were compared, the temperature of best fit, what members chosen without an image say of it, digests of
the images and of their split."""

RESIZE_RULE = "upright by EXIF; centre square; antialiased bicubic; over white where transparent"
"""What `hpo.data.decode` does to an image."""

Triple = tuple[float, float, float]


def _completed(config: Any) -> Any:
    """A stored configuration with what was done before some of its fields were there."""
    return {**FORMER_DEFAULTS, **config} if isinstance(config, Mapping) else config


StoredConfig = Annotated[TrialConfig, BeforeValidator(_completed)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Preprocessing(_Section):
    """How an image becomes input: RGB, resized to a square, scaled to [0, 1], minus mean, over std."""

    image_size: int = Field(ge=1)
    mean: Triple
    std: Triple
    resize: str
    """The resize rule, in words."""


class Weights(_Section):
    """What the backbone started from: timm's own weights, a file, or nothing (both None, not pretrained)."""

    file: str | None = None
    """Name of the file, without its folder."""
    digest: str | None = None


class Scores(_Section):
    """Calibration in numbers, without the bins: see `hpo.evaluation.calibration.Reliability`."""

    ece: float
    chance_ece: float
    brier: float
    nll: float


class Calibration(_Section):
    """The temperature that the model's logits are divided by, and what that does to its probabilities."""

    temperature: float = Field(gt=0)
    fitted_on: Literal["validation", "trial"]
    """`trial`: on the predictions of the trial whose configuration these weights were trained with once more."""
    best_fit: float | None = Field(None, gt=0)
    """The temperature of least NLL on these images, which `temperature` was drawn from towards 1; None in bundles from
    before format 3, whose temperature is that of least NLL itself."""
    n: int = Field(ge=1)
    """Images that it was fitted on."""
    before: Scores
    after: Scores
    """On the images that it was fitted on, so a little better than on others."""
    held_out: Scores | None = None
    """Cross-validated: each image under a temperature fitted without it, of an ensemble or soup also by members chosen
    without it; None where there are too few images."""


class Member(_Section):
    """One model of an ensemble."""

    trial: int = Field(ge=0)
    weight: float = Field(gt=0, le=1)
    """Its share of the ensemble's probabilities."""
    temperature: float = Field(gt=0)
    """Its own; the ensemble's is in `calibration`."""
    best_epoch: int = Field(ge=1)
    mean: Triple
    std: Triple
    config: StoredConfig


def shared(config: TrialConfig) -> TrialConfig:
    """The configuration as it leaves this machine: the weights file by its name, without the folder that it lies in."""
    return config.replace(weights=public_config({"weights": config.weights})["weights"])


class Manifest(_Section):
    """Everything in config.json but the layout's version and the digests of the other files."""

    stage: Literal["exported", "retrained", "ensemble", "soup"]
    """The last two join trials: `trial`, `config` and what follows from them are then those of the best of them."""
    study: str
    trial: int = Field(ge=0)
    metric: str
    """What selected the best epoch: accuracy, balanced_accuracy or macro_f1."""
    config: StoredConfig
    classes: tuple[str, ...] = Field(min_length=2)
    """Class names; a label is a position here."""
    preprocessing: Preprocessing
    epochs: int = Field(ge=1)
    """Epochs that these weights were trained for."""
    best_epoch: int = Field(ge=1)
    """The epoch of the trial that validation liked best."""
    compared: int | None = Field(None, ge=1)
    """Trials of the study with a value on the validation part when this one was chosen among them; of an ensemble or a
    soup that number over the trials that it was chosen from, rounded up. None in bundles from before format 3."""
    curve: tuple[float, ...] = ()
    """The metric of each epoch of the trial: what a plateau schedule follows when there is nothing to validate on."""
    seed: int
    """Of the training."""
    data: DataOrigin
    weights: Weights
    versions: dict[str, str]
    calibration: Calibration | None = None
    """None where it is not known: bundles of format 1, and models without predictions on plain validation images."""
    members: tuple[Member, ...] = ()
    """Of an ensemble, heaviest first."""
    ingredients: tuple[int, ...] = ()
    """Trials whose weights were averaged into a soup."""

    @property
    def temperature(self) -> float:
        """What logits are divided by; 1 without calibration."""
        return self.calibration.temperature if self.calibration else 1.0

    @model_validator(mode="after")
    def _joined(self) -> Self:
        if (self.stage == "ensemble") != bool(self.members):
            raise ValueError("an ensemble has members, and nothing else does")
        if self.members and abs(sum(member.weight for member in self.members) - 1) > 1e-6:
            raise ValueError("the weights of the members must add up to 1")
        return self

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
        except TypeError as error:  # a list or a table where a validator of the configuration expects the other
            raise BundleError(f"{source}: {error}; {way_out}") from None
