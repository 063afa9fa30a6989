"""What training has cost, as the trial that a model comes from recorded it.

Candidates: the bundles that a comparison measures, written from the trials that it trained or was pointed at.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.trial import TrialState

from hpo.bundle.bundle import read_bundle
from hpo.delivery.export import choose_trial, export_trial, is_of_trial, trial_manifest
from hpo.errors import BundleError
from hpo.experiments.model_refs import TrialRef
from hpo.experiments.preset_configs import PresetConfig, run_name
from hpo.search.status import moment
from hpo.search.trial_record import TrialRecord, describe_ending
from search_spaces import RUN
from storage import StudyError, open_store, open_study, read_spec

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

    from hpo.bundle.manifest import Manifest
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
    epochs, record = len(trial.intermediate_values), TrialRecord.of(trial)
    if not epochs or record.seconds is None:
        return None
    return Cost(
        epochs=epochs,
        seconds_per_epoch=float(record.seconds) / epochs,
        peak_memory=record.peak_memory,
        device=record.device,
        trainable_parameters=record.trainable_parameters,
        shared=record.device.startswith("cpu") and any(_before(other, trial) for other in trials),
    )


def _before(other: FrozenTrial, trial: FrozenTrial) -> bool:
    """Whether the process of `trial` trained `other` first: a trial in a process of its own has no such other."""
    if other.datetime_start is None or trial.datetime_start is None:
        return False
    if moment(other.datetime_start) >= moment(trial.datetime_start):
        return False
    worker = TrialRecord.of(trial).worker
    return worker is not None and TrialRecord.of(other).worker == worker


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
    if trial is None or not same_data or TrialRecord.of(trial).seed != manifest.seed:
        return None
    return cost_of(trial, trials)


JOINED = "its members were picked on the validation part, so its accuracy there and on the corrupted copy flatters"


@dataclass(frozen=True)
class ComparedModel:
    """One contestant: a model, or several that differ in their seed alone."""

    label: str
    kind: str
    """preset, bundle or trial."""
    folders: tuple[Path, ...]
    """Bundles, one a seed."""
    costs: tuple[Cost, ...] = ()
    """Of those whose training is on record."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class BundleCache:
    """Where checkpoints are read from, and bundles are put that nobody named a place for."""

    db: Database
    artifacts: Path | str
    home: Path

    def put(self, study: optuna.Study, trial: FrozenTrial) -> Path:
        """The trial's bundle; one that an earlier comparison has put there stays, with its looks at the test.

        It stays only if it is whole and of this very trial: two studies may have one id.
        """
        spec = read_spec(study)
        folder = (
            self.home / "comparisons" / spec.id / f"{trial.number:03d}-{slug(str(trial.params.get('run', 'trial')))}"
        )
        try:
            same = is_of_trial(read_bundle(folder).manifest, trial_manifest(study.study_name, spec, trial))
        except BundleError:
            same = False
        if not same:
            export_trial(study, trial, open_store(self.artifacts, spec.id), folder, force=True)
        return folder


def trained(
    shelf: BundleCache, study: optuna.Study, entrants: Sequence[PresetConfig], seeds: int
) -> list[ComparedModel]:
    """The entrants as `study` has trained them; one without a complete run has no folder and says why."""
    runs = {trial.params[RUN]: trial for trial in study.get_trials(deepcopy=False) if RUN in trial.params}
    return [
        _trained(shelf, study, entrant, [runs.get(run_name(entrant.label, s, seeds)) for s in range(seeds)])
        for entrant in entrants
    ]


def _trained(
    shelf: BundleCache, study: optuna.Study, entrant: PresetConfig, runs: Sequence[FrozenTrial | None]
) -> ComparedModel:
    complete = [trial for trial in runs if trial is not None and trial.state == TrialState.COMPLETE]
    trials = study.get_trials(deepcopy=False)
    costs = tuple(cost for trial in complete if (cost := cost_of(trial, trials)) is not None)
    unused = tuple(f"{text} does not apply" for text, _ in entrant.unused)
    ended = tuple(describe_ending(trial, ": ") for trial in runs if trial is None or trial.state != TrialState.COMPLETE)
    folders = tuple(shelf.put(study, trial) for trial in complete)
    return ComparedModel(entrant.label, "preset", folders, costs, (*ended, *unused))


def from_trial(shelf: BundleCache, name: TrialRef) -> ComparedModel:
    """A complete trial of a study; raises StudyError or BundleError where there is none."""
    study = open_study(shelf.db, name.study)
    trial = choose_trial(study, name.number)
    cost = cost_of(trial, study.get_trials(deepcopy=False))
    return ComparedModel(name.label, "trial", (shelf.put(study, trial),), (cost,) if cost else ())


def from_bundle(db: Database | None, label: str, folder: Path) -> ComparedModel:
    """A bundle, with what its training cost where the database knows that; BundleError where it is none."""
    manifest = read_bundle(folder).manifest
    cost = recorded_cost(db, manifest) if db is not None else None
    notes = (JOINED,) if manifest.stage in ("ensemble", "soup") else ()
    return ComparedModel(label, "bundle", (folder,), (cost,) if cost else (), notes)


def slug(text: str) -> str:
    """`text` as the plain name of a folder."""
    return re.sub(r"[^A-Za-z0-9._=-]+", "-", text).strip("-.")[:60] or "run"
