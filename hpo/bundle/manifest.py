"""The manifest of a bundle (config.json): what the weights are, how to feed them, where they come from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from hpo.data import DataOrigin
from hpo.errors import BundleError
from hpo.private_paths import public_config
from search_spaces import FORMER_DEFAULTS, Background, TrialConfig

FORMAT = 3
"""Version of the bundle's layout; a reader accepts its own and older ones. 2 adds calibration, validation and members;
3 the number of trials compared, the temperature of best fit, predictions of members that were chosen without the image,
and digests of the images and of their split."""

RESIZE_RULE = "upright by EXIF; centre square; antialiased bicubic; over white where transparent"
"""The preprocessing of `hpo.data.decode`, in words."""

Triple = tuple[float, float, float]


def _fill_missing(config: Any) -> Any:
    """Fill fields that an earlier version of hpo did not store with what that version did."""
    return {**FORMER_DEFAULTS, **config} if isinstance(config, Mapping) else config


StoredConfig = Annotated[TrialConfig, BeforeValidator(_fill_missing)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Preprocessing(_Section):
    """The steps from an image to the input: RGB, resized to a square, scaled to [0, 1], minus mean, over std."""

    image_size: int = Field(ge=1)
    mean: Triple
    std: Triple
    resize: str
    """The resize rule, in words."""
    background: Background = "keep"
    """Whether what surrounds the object is painted over at this size (`hpo.augmentation.background`); bundles from
    before this field keep it."""


class Weights(_Section):
    """The weights that the backbone started from; both None for timm's own weights and for none."""

    file: str | None = None
    """Name of the file, without its folder."""
    digest: str | None = None


class Scores(_Section):
    """Calibration errors without the bins: see `hpo.evaluation.calibration.Reliability`."""

    ece: float
    chance_ece: float
    brier: float
    nll: float


class Calibration(_Section):
    """The temperature that the model's logits are divided by, and its effect on the probabilities."""

    temperature: float = Field(gt=0)
    fitted_on: Literal["validation", "trial"]
    """`trial`: on the predictions of the trial whose configuration was trained once more for these weights."""
    best_fit: float | None = Field(None, gt=0)
    """The temperature of least NLL on these images, from which `temperature` was shrunk towards 1; None in bundles from
    before format 3, whose temperature is that of least NLL."""
    n: int = Field(ge=1)
    """Images that the temperature was fitted on."""
    before: Scores
    after: Scores
    """On the images that the temperature was fitted on, so slightly better than on others."""
    held_out: Scores | None = None
    """Cross-validated: each image under a temperature fitted without it, for an ensemble or a soup also by members
    chosen without it; None where there are too few images."""


class Member(_Section):
    """One model of an ensemble."""

    trial: int = Field(ge=0)
    weight: float = Field(gt=0, le=1)
    """Share of the ensemble's probabilities."""
    temperature: float = Field(gt=0)
    """The member's own temperature; the ensemble's is in `calibration`."""
    best_epoch: int = Field(ge=1)
    mean: Triple
    std: Triple
    config: StoredConfig


def shared(config: TrialConfig) -> TrialConfig:
    """Return the configuration as it leaves this machine: the weights file by its name, without its folder."""
    return config.replace(weights=public_config({"weights": config.weights})["weights"])


class FoldValues(_Section):
    """The values of a trial over folds; the bundle holds the model of the first."""

    values: tuple[float, ...] = Field(min_length=1)
    """The metric of the best epoch of each fold; the trial's value is their mean."""
    best_epochs: tuple[int, ...] = Field(min_length=1)
    standard_error: float | None
    """The standard error of the mean; None for one fold."""


class Adaptation(_Section):
    """Unlabelled images that the statistics of BatchNorm were adapted to (`hpo adapt`)."""

    images: int = Field(ge=1)
    """Images that were used."""
    found: int = Field(ge=1)
    """Images that they were drawn from."""
    digest: str
    """Digest of their pixels at the stored size, in any order."""
    sources: tuple[str, ...]
    """Names of the folders and files that held them, without their folders; - for a list of paths."""
    prior: float = Field(ge=0)
    """The number of images that the trained statistics counted as."""


class RobustnessFigures(_Section):
    """The figures that make a trial's value in a study with a robustness above 0; over folds each is the mean."""

    weight: float = Field(gt=0, le=1)
    """The robustness: the weight of the altered images."""
    clean: float
    """The metric on clean validation images."""
    altered: float
    """The metric on altered ones."""

    @property
    def value(self) -> float:
        """The trial's value."""
        return (1 - self.weight) * self.clean + self.weight * self.altered


class ProbeFit(_Section):
    """How the linear head of a frozen probe was fitted, at once and without epochs."""

    penalty: float = Field(gt=0)
    """The L2 penalty, as a multiple of the default."""
    images: int = Field(ge=1)
    """Training images that it was fitted on."""


class Interpolation(_Section):
    """A point between the original weights of the backbone and those of the trial (`hpo interpolate`)."""

    share: float = Field(ge=0, lt=1)
    """Share of the trial's weights."""
    tried: tuple[float, ...]
    """Shares that it was chosen among, by validation images as they are and altered."""


class HeadChange(_Section):
    """How the last layer was changed after training (`hpo.delivery.balanced_head`)."""

    method: Literal["retrained", "priors"]
    """Trained once more on cached features, or its bias shifted by the logarithms of the class frequencies."""
    strength: float = Field(ge=0)
    """The penalty on the distance to the layer before (`retrained`), or the share of the logarithms (`priors`)."""
    balanced: bool = False
    """Only for `retrained`: whether each class weighs the same, not each image."""


class Finished(_Section):
    """Changes after training where that helped (`hpo export-best --finish`), in the order of the fields."""

    statistics: int | None = Field(None, ge=1)
    """Training images by which the statistics of BatchNorm were estimated anew."""
    head: HeadChange | None = None
    views: Literal["none", "mirror", "flips", "dihedral"] = "none"
    """Views of each image whose probabilities every prediction averages."""


class Manifest(_Section):
    """The content of config.json but for the layout's version and the digests of the other files."""

    stage: Literal["exported", "retrained", "ensemble", "soup"]
    """The last two join trials; `trial`, `config` and fields that follow from them are then those of the best one."""
    study: str
    trial: int = Field(ge=0)
    metric: str
    """The metric that selected the best epoch: accuracy, balanced_accuracy or macro_f1; see `robustness`."""
    config: StoredConfig
    classes: tuple[str, ...] = Field(min_length=2)
    """Class names; a label is the position of its class."""
    preprocessing: Preprocessing
    epochs: int = Field(ge=1)
    """Epochs that these weights were trained for."""
    best_epoch: int = Field(ge=1)
    """The epoch of the trial with the best value on the validation part."""
    compared: int | None = Field(None, ge=1)
    """Trials of the study with a value on the validation part when this one was chosen among them; for an ensemble or a
    soup that number over the number of trials that it was chosen from, rounded up. None before format 3."""
    curve: tuple[float, ...] = ()
    """The metric of each epoch of the trial, which a plateau schedule follows in a retraining without validation."""
    seed: int
    """Seed of the training."""
    data: DataOrigin
    weights: Weights
    versions: dict[str, str]
    calibration: Calibration | None = None
    """None in bundles of format 1, and for models without predictions on plain validation images."""
    members: tuple[Member, ...] = ()
    """The members of an ensemble, heaviest first."""
    ingredients: tuple[int, ...] = ()
    """The trials whose weights were averaged into a soup."""
    folds: FoldValues | None = None
    """None for a trial of one split; for a joint model those of its best trial."""
    adapted: Adaptation | None = None
    """None where the statistics are those of the training. Else the calibration is that of the model before."""
    interpolated: Interpolation | None = None
    """None for the weights of the trial themselves."""
    finished: Finished | None = None
    """None where nothing but `interpolated`, `ingredients` and `members` says was changed after training."""
    robustness: RobustnessFigures | None = None
    """None where clean images alone counted in the search. Those of the trial for a retrained model, and for an adapted
    one; its own for a joint, an interpolated and a finished one."""
    probe: ProbeFit | None = None
    """None for a trained model. A frozen probe has one epoch, in which its head was fitted at once."""

    @property
    def epochs_to_retrain(self) -> int:
        """The epochs that a retraining takes: the best epoch, of several folds the middle one of theirs."""
        if self.folds is None:
            return self.best_epoch
        return min(sorted(self.folds.best_epochs)[len(self.folds.best_epochs) // 2], len(self.curve))

    @property
    def value_name(self) -> str:
        """The name of the trial's value: the metric, or `value` where it is made of that on two kinds of images."""
        return self.metric if self.robustness is None else "value"

    @property
    def views(self) -> Literal["none", "mirror", "flips", "dihedral"]:
        """The views of an image whose probabilities every prediction averages."""
        return self.finished.views if self.finished else "none"

    @property
    def changes(self) -> list[str]:
        """A line for each change of a model of one trial since its training; empty where there is none."""
        found = []
        finished = self.finished or Finished()
        if finished.statistics:
            found.append(f"BatchNorm statistics estimated anew on {finished.statistics:,} training images")
        if self.interpolated is not None:
            found.append(f"backbone at {self.interpolated.share:g} of the trained weights, the rest original (WiSE-FT)")
        if (head := finished.head) is not None:
            how = (
                "trained once more on cached features" if head.method == "retrained" else "shifted by class frequencies"
            )
            found.append(f"last layer {how}{', each class with the same weight' if head.balanced else ''}")
        if finished.views != "none":
            found.append(f"each prediction is the mean over the views of `{finished.views}`")
        return found

    @property
    def temperature(self) -> float:
        """Divisor of the logits; 1 without calibration."""
        return self.calibration.temperature if self.calibration else 1.0

    @model_validator(mode="after")
    def _check_members(self) -> Self:
        if (self.stage == "ensemble") != bool(self.members):
            raise ValueError("an ensemble has members, and nothing else does")
        if self.preprocessing.background != self.config.background:
            raise ValueError("preprocessing.background must be that of the configuration")
        if self.members and abs(sum(member.weight for member in self.members) - 1) > 1e-6:
            raise ValueError("the weights of the members must add up to 1")
        return self

    @field_validator("classes")
    @classmethod
    def _check_distinct(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(classes)) < len(classes):
            raise ValueError("class names must differ")
        return classes

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values; `from_dict(to_dict(x)) == x`. Later fields that are None are left out."""
        own = ("folds", "adapted", "interpolated", "finished", "robustness", "probe")
        return self.model_dump(mode="json", exclude={key for key in own if getattr(self, key) is None})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, source: str, way_out: str = "export it again") -> Manifest:
        """Validate `values`; the first broken rule raises BundleError naming `source`, key, rule and way out."""
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            key = ".".join(str(part) for part in first["loc"])
            raise BundleError(f"{source}: {key}: {first['msg']}; {way_out}") from None
        except TypeError as error:  # A list or a table where a validator of the configuration expects the other.
            raise BundleError(f"{source}: {error}; {way_out}") from None
