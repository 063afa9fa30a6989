"""The command that founded a study over a list of runs, kept with it: nothing else says how the list came to be.

What a trial remembers beside its parameters and curve: user attributes, which the dashboard shows as they are.

    config          every field of its TrialConfig        best_epoch, best_metrics   the epoch that was kept
    seed            of its training                       seconds, images_per_second, peak_memory
    worker          who trains it: host:pid               device, precision, parameters, trainable_parameters
    facts           all that the engine said of the run   versions                   python, torch, timm, optuna, hpo
    reason          why it ended early or failed          split_digest               of the images it was validated on

A trial costs the database a fixed, small number of statements: one for all of these at its start, one at its end, and
one transaction with the report of each epoch.
"""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import optuna

if TYPE_CHECKING:
    from hpo.training import EpochResult
    from search_spaces import TrialConfig


_KEY = "hpo:command"


def remember_command(study: optuna.Study, command: str) -> None:
    """Keep `command` with the study, unless it has one. It must hold no password: the dashboard shows it."""
    if _KEY not in study.user_attrs:
        study.set_user_attr(_KEY, command)


def founding_command(study: optuna.Study) -> str:
    """The command that is kept with the study; empty where there is none."""
    return str(study.user_attrs.get(_KEY, ""))


@cache
def versions() -> dict[str, str]:
    """Versions that decide a result: Python and the libraries that compute it."""
    libraries = ("torch", "timm", "albumentations", "optuna", "numpy")
    from hpo import __version__

    return {"hpo": __version__, "python": platform.python_version()} | {name: version(name) for name in libraries}


def open_record(config: TrialConfig, seed: int, worker: str, split_digest: str) -> dict[str, Any]:
    """What is known before training."""
    known = {"config": config.to_dict(), "seed": seed, "worker": worker, "versions": versions()}
    return {**known, "split_digest": split_digest}


def checkpoint_origin(study: str, config: TrialConfig, seed: int) -> dict[str, Any]:
    """What a checkpoint notes of the trial that it belongs to, JSON-ready: see `foreign_checkpoint`."""
    return {"study": study, "config": config.to_dict(), "seed": seed}


def foreign_checkpoint(info: Mapping[str, Any], config: Mapping[str, Any], seed: Any) -> str | None:
    """Why a checkpoint with the notes `info` is not of a trial with this configuration and seed; None where it may be.

    Two studies may have one id, as after `optuna.copy_study` or where a dump was restored: their trials of one number
    then share a folder. The path of the weights file is left out, as each machine has its own. A checkpoint from
    before these notes were written is not told apart here.
    """
    origin = info.get("trial")
    if origin is None:
        return None
    theirs, ours = origin["config"], json.loads(json.dumps(dict(config)))
    for key in (theirs.keys() & ours.keys()) - {"weights"}:
        if theirs[key] != ours[key]:
            return f"it is of a trial of study {origin['study']!r} whose {key} is {theirs[key]!r}, not {ours[key]!r}"
    if seed is not None and origin["seed"] != seed:
        return f"it is of a trial of study {origin['study']!r} whose seed is {origin['seed']}, not {seed}"
    return None


def mismatched_best(info: Mapping[str, Any], recorded: Mapping[str, Any], metric: str) -> str | None:
    """Why a `best` checkpoint with the notes `info` is not what a trial's attributes `recorded`; None where it is.

    Compared are the configuration and the seed, the epoch and the value of `metric`, each where both sides know it.
    """
    foreign = foreign_checkpoint(info, recorded.get("config", {}), recorded.get("seed"))
    if foreign is not None:
        return foreign
    epoch, best = info.get("epoch"), recorded.get("best_epoch")
    if epoch is not None and best is not None and epoch != best:
        return f"it is of epoch {epoch}, but the trial's best epoch is {best}"
    value = info.get("metrics", {}).get(metric)
    wanted = recorded.get("best_metrics", {}).get(metric)
    if value is not None and wanted is not None and not math.isclose(value, wanted, rel_tol=1e-9):
        return f"its {metric} is {value:.6g}, but the trial recorded {wanted:.6g}"
    return None


@dataclass
class TrialProgress:
    """The best epoch so far and the cost so far of one trial, over all the times that it was taken up."""

    metric: str
    best_epoch: int = 0
    best_metrics: dict[str, float] = field(default_factory=dict)
    epochs: int = 0
    last: bool = False
    """Whether no epoch follows: all are done, or the patience is over."""
    curve: dict[str, float] = field(default_factory=dict)
    """The metric after each epoch so far; keys are epochs, as JSON has them."""
    seconds: float = 0.0
    images_per_second: float = 0.0
    peak_memory: int = 0
    facts: dict[str, Any] = field(default_factory=dict)

    def restore(self, stored: Mapping[str, Any]) -> None:
        """Go on from what `to_dict` gave."""
        for key, value in stored.items():
            setattr(self, key, value)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the metric's name, JSON-ready."""
        return {key: value for key, value in vars(self).items() if key != "metric"}

    @property
    def best_value(self) -> float:
        """The metric at the best epoch; NaN before the first."""
        return self.best_metrics.get(self.metric, float("nan"))

    def add(self, result: EpochResult) -> bool:
        """Count one more epoch; True when it is the best so far (the first of equals stays)."""
        self.epochs, self.last = result.epoch, result.last
        self.curve[str(result.epoch)] = result.metrics[self.metric]
        self.seconds += result.seconds
        # Mean over epochs: every epoch shows the same number of images.
        self.images_per_second += (result.images_per_second - self.images_per_second) / result.epoch
        self.peak_memory = max(self.peak_memory, result.peak_memory)
        self.facts = dict(result.facts)
        better = not self.best_metrics or result.metrics[self.metric] > self.best_value
        if better:
            self.best_epoch, self.best_metrics = result.epoch, dict(result.metrics)
        return better


def close_record(progress: TrialProgress, reason: str | None = None) -> dict[str, Any]:
    """What training gave, and why it ended early if it did; written before `tell`: a finished trial is immutable."""
    shown = ("device", "precision", "parameters", "trainable_parameters")
    told = {
        key: value for key, value in progress.to_dict().items() if key not in ("curve", "last")
    }  # optuna has them already
    values = told | {key: progress.facts[key] for key in shown if key in progress.facts}
    return values | ({"reason": reason} if reason else {})
