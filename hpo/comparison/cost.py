"""What training has cost, as the trial that a model comes from recorded it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hpo.search.clock import moment
from storage import StudyError, open_study, read_spec

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from hpo.delivery.manifest import Manifest
    from storage import Database


@dataclass(frozen=True)
class Cost:
    """Of one training run."""

    epochs: int
    seconds_per_epoch: float
    """Validation included."""
    peak_memory: int
    """Bytes: of the device on a GPU, of the process on a CPU."""
    device: str
    """That trained, in words."""
    trainable_parameters: int | None
    shared: bool = False
    """Whether the process had trained others before: `peak_memory` may be theirs, and is an upper bound."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return dict(vars(self))


def cost_of(trial: FrozenTrial, trials: Iterable[FrozenTrial]) -> Cost | None:
    """What a finished trial among the `trials` of its study recorded; None where it recorded nothing."""
    epochs, record = len(trial.intermediate_values), trial.user_attrs
    if not epochs or "seconds" not in record:
        return None
    device = str(record.get("device", ""))
    return Cost(
        epochs=epochs,
        seconds_per_epoch=float(record["seconds"]) / epochs,
        peak_memory=int(record.get("peak_memory", 0)),
        device=device,
        trainable_parameters=record.get("trainable_parameters"),
        shared=device.startswith("cpu") and any(_before(other, trial) for other in trials),
    )


def _before(other: FrozenTrial, trial: FrozenTrial) -> bool:
    """Whether the process of `trial` trained `other` first: a trial in a process of its own has no such other."""
    if other.datetime_start is None or trial.datetime_start is None:
        return False
    if moment(other.datetime_start) >= moment(trial.datetime_start):
        return False
    return "worker" in trial.user_attrs and other.user_attrs.get("worker") == trial.user_attrs["worker"]


def recorded_cost(db: Database, manifest: Manifest) -> Cost | None:
    """What the trial of a bundle cost, where this database holds that very trial; None elsewhere.

    A retrained model was not trained in its trial, and an ensemble in several: they have no cost of their own.
    """
    if manifest.stage != "exported":
        return None
    try:
        study = open_study(db, manifest.study)
        same_data = read_spec(study).data_fingerprint == manifest.data.fingerprint
    except StudyError:
        return None
    trials = study.get_trials(deepcopy=False)
    trial = trials[manifest.trial] if manifest.trial < len(trials) else None
    if trial is None or not same_data or trial.user_attrs.get("seed") != manifest.seed:
        return None
    return cost_of(trial, trials)
