"""The record that a trial keeps of itself beside its parameters and its curve, as optuna's user attributes.

    config          every field of its TrialConfig        best_epoch, best_metrics   the epoch whose weights are kept
    seed            of its training                       seconds, images_per_second, peak_memory
    worker          that trains it: host:pid              device, precision, parameters, trainable_parameters
    facts           what training reported of the run     versions                   python, torch, timm, optuna, hpo
    folds           of a trial over folds: their values, best epochs, curves and the standard error of the mean
    clean, altered  with a robustness above 0: the two figures that its value is made of, clean_curve, altered_curve
    probe           of a frozen probe: its backbone
    standard_error  of the value, over samples of as many validation images; of a trial over folds `folds` has it
    reason          why it ended early or failed          split_digest               of the images it was validated on
    replicate_of    of a trial with the parameters of an earlier one: the number of the first of these

What it predicted for each validation image is a system attribute, which no dashboard shows and no sampler reads.

This is the one file that names these keys: `TrialRecord` reads them, the functions `*_attributes` give what is written.
A trial costs the database a fixed number of statements: one for all attributes at its start, one at its end, and one
transaction with the report of each epoch, which writes both figures too. A study over a trial list also stores the
command that created it.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import FrozenTrial

from storage import REPLICATE_OF

if TYPE_CHECKING:
    from hpo.evaluation.outcomes import Outcomes
    from hpo.training import EpochResult
    from search_spaces import TrialConfig


@dataclass(frozen=True)
class TrialRecord:
    """The attributes of one trial; an attribute that the trial did not record has the default."""

    config: Mapping[str, Any] = field(default_factory=dict)
    """All fields of the TrialConfig, JSON-ready."""
    seed: int | None = None
    """Seed of the training."""
    worker: str | None = None
    """host:pid."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Version by library."""
    split_digest: str | None = None
    epochs: int = 0
    """Number of epochs trained."""
    best_epoch: int | None = None
    best_metrics: Mapping[str, float] = field(default_factory=dict)
    """Metrics on the validation part after the best epoch."""
    seconds: float | None = None
    """Seconds of training and validation, all attempts together."""
    images_per_second: float = 0.0
    peak_memory: int = 0
    """Bytes: of the device on a GPU, of the process on a CPU."""
    device: str = ""
    """The device that trained the trial, in words."""
    precision: str = ""
    parameters: int | None = None
    trainable_parameters: int | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Facts that training reported of the run: mean, std, weights, precision and more."""
    reason: str | None = None
    """Why the trial ended early or failed."""
    folds: Mapping[str, Any] = field(default_factory=dict)
    """The folds of a trial: from its start `count` of folds and `steps` of each; at its end: `values`, `best_epochs`,
    `standard_error` and `curves`, as `fold_progress.fold_summary` gives them. Empty without folds."""
    clean: float | None = None
    """The metric on clean images that enters the value; None where the value is that metric alone."""
    altered: float | None = None
    """The metric on altered images that enters the value; None where these do not count."""
    clean_curve: Mapping[str, float] = field(default_factory=dict)
    """The value of `clean` after each reported step, by the step as text; empty where `clean` is None."""
    altered_curve: Mapping[str, float] = field(default_factory=dict)
    """The value of `altered` after each reported step."""
    probe: str | None = None
    """The backbone that a frozen probe measures; None for a trial that trains. Known before the trial begins."""
    replicate_of: int | None = None
    """Number of the first trial with the same parameters, under another seed; None where there is none before."""
    standard_error: float | None = None
    """Standard error of the value of a trial without folds; None for trials of earlier versions."""

    @property
    def error(self) -> float | None:
        """The standard error of the value: over the folds, or over samples of images; None where it is not known."""
        over_folds: float | None = self.folds.get("standard_error")
        return self.standard_error if over_folds is None else over_folds

    @classmethod
    def of(cls, trial: FrozenTrial) -> TrialRecord:
        """Read the record of `trial`; other attributes are left out."""
        known = {field.name for field in fields(cls)} - ({"probe"} if trial.params else set())
        return cls(**{key: value for key, value in trial.user_attrs.items() if key in known})

    @property
    def training_digest(self) -> str:
        """Digest of the configuration, the seed and the best epoch.

        It distinguishes trials of one number in two studies that share an id.
        """
        recorded = {
            "config": self.config or None,
            "seed": self.seed,
            "best_epoch": self.best_epoch,
            "best_metrics": self.best_metrics or None,
        }
        return hashlib.sha256(json.dumps(recorded, sort_keys=True).encode()).hexdigest()[:12]


def probe_attributes(backbone: str) -> dict[str, Any]:
    """Return the attributes of a trial that is to be the frozen probe of a backbone."""
    return {"probe": backbone}


def is_probe(trial: FrozenTrial) -> bool:
    """Return whether a trial is a frozen probe; a worker of an earlier version has trained it, if it has parameters."""
    return trial.user_attrs.get("probe") is not None and not trial.params


def original_of(trial: FrozenTrial) -> int:
    """Return the number of the first trial with the parameters of `trial`: its own, unless it is a replicate."""
    original: int = trial.user_attrs.get(REPLICATE_OF, trial.number)
    return original


def best_probe(ranked: Iterable[FrozenTrial]) -> FrozenTrial | None:
    """Return the best frozen probe of complete trials, the best first; its checkpoint is kept beside the best ones."""
    return next(filter(is_probe, ranked), None)


def describe_ending(trial: FrozenTrial | None, separator: str) -> str:
    """Return the state and the reason of a trial that gave no result, for example `failed: OSError`."""
    if trial is None:
        return "not trained"
    return f"{trial.state.name.lower()}{separator}{TrialRecord.of(trial).reason or 'no reason on record'}"


@cache
def versions() -> dict[str, str]:
    """Return the versions that decide a result: of Python, of hpo and of the libraries that compute it."""
    libraries = ("torch", "timm", "albumentations", "optuna", "numpy")
    from hpo import __version__

    return {"hpo": __version__, "python": platform.python_version()} | {name: version(name) for name in libraries}


@dataclass(frozen=True)
class FoldPlan:
    """The folds that each trial of a study trains on."""

    count: int
    steps: int
    """Steps between the beginnings of two folds: epochs of the longest run of the study."""

    def to_dict(self) -> dict[str, int]:
        """Return both fields, JSON-ready."""
        return {"count": self.count, "steps": self.steps}


def initial_attributes(
    config: TrialConfig, seed: int, worker: str, split_digest: str,
    folds: FoldPlan | None = None, replicate_of: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Return the attributes that are known before training."""
    known = {"config": config.to_dict(), "seed": seed, "worker": worker, "versions": versions()}
    original = {} if replicate_of is None else {REPLICATE_OF: replicate_of}
    return {**known, "split_digest": split_digest, **({"folds": folds.to_dict()} if folds else {}), **original}


@dataclass
class TrialProgress:
    """The best epoch and the cost of one trial so far, all attempts together."""

    metric: str
    best_epoch: int = 0
    best_metrics: dict[str, float] = field(default_factory=dict)
    epochs: int = 0
    last: bool = False
    """Whether no epoch follows: all are trained, or training stopped early."""
    curve: dict[str, float] = field(default_factory=dict)
    """The metric after each epoch; the keys are epochs as text, since JSON has no other keys."""
    seconds: float = 0.0
    images_per_second: float = 0.0
    peak_memory: int = 0
    facts: dict[str, Any] = field(default_factory=dict)
    robustness: float = 0.0
    """Weight of the altered part in the value of an epoch."""
    clean_curve: dict[str, float] = field(default_factory=dict)
    """The metric on clean images that entered each value of `curve`; empty without robustness."""
    altered_curve: dict[str, float] = field(default_factory=dict)
    """The metric on altered images that entered each value of `curve`; empty without robustness."""
    improved: bool = False
    """Whether the epoch that was added last is the best so far, with folds of its fold."""
    outcomes: list[str] = field(default_factory=list)
    """The encoded `Outcomes` of the best epoch; over folds those of each fold begun. Empty where they are not known."""
    standard_error: float | None = None
    """Standard error of the best epoch's value; None over folds, and where the outcomes are not known."""

    def restore(self, stored: Mapping[str, Any]) -> None:
        """Set the fields to what `to_dict` gave."""
        for key, value in stored.items():
            setattr(self, key, value)

    def to_dict(self) -> dict[str, Any]:
        """Return every field but the metric's name and the robustness, JSON-ready."""
        return {key: value for key, value in vars(self).items() if key not in ("metric", "robustness")}

    def recorded(self) -> dict[str, Any]:
        """Return what the trial records of itself at its end, JSON-ready."""
        # optuna stores the curve itself, and its end shows whether an epoch was the last.
        left_out = ("curve", "last", "clean_curve", "altered_curve", "improved", "outcomes")
        kept = {key: value for key, value in self.to_dict().items() if key not in left_out} | self.figures
        if self.standard_error is None:
            del kept["standard_error"]
        return kept

    @property
    def best_outcomes(self) -> list[str]:
        """The encoded outcomes that belong to `best_value`."""
        return self.outcomes

    def keep_outcomes(self, outcomes: Outcomes) -> None:
        """Keep the outcomes of the epoch that was added last, if it is the best so far."""
        self.outcomes = [outcomes.sampled().encode()]
        self.standard_error = outcomes.standard_error(self.metric, self.robustness)

    @property
    def figures(self) -> dict[str, Any]:
        """The attributes with what the value is made of, JSON-ready; empty without robustness or before an epoch."""
        if not self.clean_curve:
            return {}
        clean, altered = self.best_figures
        curves = {"clean_curve": self.clean_curve, "altered_curve": self.altered_curve}
        return {"clean": clean, "altered": altered, **curves}

    @property
    def best_figures(self) -> tuple[float, float]:
        """The metric on clean and on altered images at the best epoch, which make `best_value`."""
        return pair_of(self.best_metrics, self.metric)

    @property
    def position(self) -> float:
        """The epochs trained."""
        return float(self.epochs)

    @property
    def place(self) -> str:
        """The fold in training, for the log; empty without folds."""
        return ""

    @property
    def best_so_far(self) -> str:
        """The value that the trial would have now, for the log."""
        return f"best {self.best_value:.4f}"

    @property
    def reached(self) -> str:
        """How far the trial came, in words."""
        return f"after epoch {self.epochs}"

    @property
    def best_value(self) -> float:
        """The value of the best epoch; NaN before the first."""
        return self.value_of(self.best_metrics) if self.best_metrics else float("nan")

    def value_of(self, metrics: Mapping[str, float]) -> float:
        """Return the value of an epoch with these metrics."""
        from hpo.evaluation.metrics import combined  # with hpo.data, which is slow to import

        return combined(metrics, self.metric, self.robustness)

    def add(self, result: EpochResult) -> bool:
        """Count one more epoch; return True when it is the best so far (the first of equals stays the best)."""
        self.last = result.last
        value = self.value_of(result.metrics)
        self.curve[str(result.epoch)] = value
        if self.robustness:
            clean, altered = pair_of(result.metrics, self.metric)
            self.clean_curve[str(result.epoch)], self.altered_curve[str(result.epoch)] = clean, altered
        self._count(result)
        self.improved = not self.best_metrics or value > self.best_value
        if self.improved:
            self.best_epoch, self.best_metrics = result.epoch, dict(result.metrics)
        return self.improved

    def _count(self, result: EpochResult) -> None:
        """Add the cost of one more epoch."""
        self.epochs += 1
        self.seconds += result.seconds
        # Mean over epochs: every epoch shows the same number of images.
        self.images_per_second += (result.images_per_second - self.images_per_second) / self.epochs
        self.peak_memory = max(self.peak_memory, result.peak_memory)
        self.facts = dict(result.facts)


def pair_of(metrics: Mapping[str, float], metric: str) -> tuple[float, float]:
    """Return the metric on clean and on altered images."""
    from hpo.evaluation.metrics import ALTERED

    return metrics[metric], metrics[f"{ALTERED}{metric}"]


def final_attributes(progress: TrialProgress, reason: str | None = None) -> dict[str, Any]:
    """Return what training gave, and why it ended early; written before `tell`, since a finished trial is immutable."""
    shown = ("device", "precision", "parameters", "trainable_parameters")
    values = progress.recorded() | {key: progress.facts[key] for key in shown if key in progress.facts}
    return values | (failure_attributes(reason) if reason else {})


_OUTCOMES = "hpo:outcomes"


def outcome_attributes(progress: TrialProgress) -> dict[str, Any]:
    """Return the system attribute with what the kept model predicted for each validation image; {} if not known."""
    return {_OUTCOMES: progress.best_outcomes} if progress.outcomes else {}


def outcomes_of(trial: FrozenTrial) -> list[Outcomes]:
    """Return what a finished trial predicted for each validation image, of each fold; [] where that is not known."""
    from hpo.evaluation.outcomes import Outcomes

    stored = trial.system_attrs.get(_OUTCOMES)
    try:
        return [Outcomes.decode(text) for text in stored] if isinstance(stored, list) else []
    except (ValueError, TypeError):  # written by another version
        return []


def given_parameters(trial: FrozenTrial) -> dict[str, Any] | None:
    """Return the parameters that were enqueued for the trial; None for one that was sampled."""
    given: dict[str, Any] | None = trial.system_attrs.get("fixed_params")
    return given


def failure_attributes(reason: str) -> dict[str, Any]:
    """Return the attributes of a trial that failed."""
    return {"reason": reason}


_COMMAND = "hpo:command"


def store_command(study: optuna.Study, command: str) -> None:
    """Store `command` with the study, unless it has one. It must hold no password: the dashboard shows it."""
    if _COMMAND not in study.user_attrs:
        study.set_user_attr(_COMMAND, command)


def stored_command(study: optuna.Study) -> str:
    """Return the command that created the study; empty where none is stored."""
    return str(study.user_attrs.get(_COMMAND, ""))
