"""Compared models: bundles, trials and trained presets, each with the recorded cost of its training."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.trial import TrialState

from hpo.bundle.bundle import read_bundle
from hpo.bundle.remote import local_bundle
from hpo.delivery.export import choose_trial, export_trial, is_of_trial, trial_manifest
from hpo.errors import BundleError
from hpo.experiments.model_refs import BundleRef, ModelRef, TrialRef
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


JOINED = (
    "its members were picked on the validation part, so its accuracy there and on the corrupted copy is biased upwards"
)

FIRST_FOLD = "its trial trained one model for each fold; this is the one of the first, on whose images all are measured"


@dataclass(frozen=True)
class Cost:
    """Cost of one training run."""

    epochs: int
    seconds_per_epoch: float
    """Includes validation."""
    peak_memory: int
    """Bytes: of the device on a GPU, of the process on a CPU."""
    device: str
    """The device that trained the model, in words."""
    trainable_parameters: int | None
    shared: bool = False
    """Whether the process had trained other trials before, so that `peak_memory` is an upper bound."""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return dict(vars(self))


@dataclass(frozen=True)
class ComparedModel:
    """A model of the comparison, or several models that differ only in their seed."""

    label: str
    kind: str
    """preset, bundle or trial."""
    folders: tuple[Path, ...]
    """Bundles, one for each seed."""
    costs: tuple[Cost, ...] = ()
    """Costs of the runs that recorded them."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class BundleCache:
    """Bundles of trials, exported once below `home` for the comparisons that need them."""

    db: Database
    artifacts: Path | str
    home: Path

    def put(self, study: optuna.Study, trial: FrozenTrial) -> Path:
        """Return the trial's bundle; keep one that an earlier comparison exported, with its record of test accesses.

        A bundle is kept only if it is complete and of this very trial, since two studies may have one id.
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


def slug(text: str) -> str:
    """Return `text` as a plain folder name."""
    return re.sub(r"[^A-Za-z0-9._=-]+", "-", text).strip("-.")[:60] or "run"


def existing_models(
    refs: Sequence[ModelRef], bundles: BundleCache, downloads: Path, stack: ExitStack
) -> dict[str, ComparedModel]:
    """Return the bundles and trials among the references, by label.

    A bundle at a URL is downloaded below `downloads`, until `stack` is closed.
    """
    found: dict[str, ComparedModel] = {}
    for ref in refs:
        if isinstance(ref, BundleRef):
            folder = stack.enter_context(local_bundle(ref.place, downloads))
            found[ref.label] = compared_bundle(bundles.db, ref.label, folder)
        elif isinstance(ref, TrialRef):
            found[ref.label] = _compared_trial(bundles, ref)
    return found


def compared_bundle(db: Database | None, label: str, folder: Path) -> ComparedModel:
    """Return a bundle, with the cost of its training if the database has it; raise BundleError if it is none."""
    manifest = read_bundle(folder).manifest
    cost = _cost_of_bundle(db, manifest) if db is not None else None
    notes = (JOINED,) if manifest.stage in ("ensemble", "soup") else ()
    if manifest.folds is not None and manifest.stage == "exported":
        notes = (FIRST_FOLD,)
    return ComparedModel(label, "bundle", (folder,), (cost,) if cost else (), notes)


def _compared_trial(bundles: BundleCache, ref: TrialRef) -> ComparedModel:
    """Return a complete trial of a study; raise StudyError or BundleError if there is none."""
    study = open_study(bundles.db, ref.study)
    trial = choose_trial(study, ref.number)
    cost = cost_of(trial, study.get_trials(deepcopy=False))
    notes = (FIRST_FOLD,) if len(TrialRecord.of(trial).folds.get("values", ())) > 1 else ()
    return ComparedModel(ref.label, "trial", (bundles.put(study, trial),), (cost,) if cost else (), notes)


def trained_presets(
    study: optuna.Study, configs: Sequence[PresetConfig], seeds: int, bundles: BundleCache
) -> dict[str, ComparedModel]:
    """Return the presets that `study` has trained, by label; one without a complete run has no folder and a note."""
    trials = {trial.params[RUN]: trial for trial in study.get_trials(deepcopy=False) if RUN in trial.params}
    return {config.label: _trained_preset(study, config, seeds, trials, bundles) for config in configs}


def _trained_preset(
    study: optuna.Study, config: PresetConfig, seeds: int, trials: Mapping[str, FrozenTrial], bundles: BundleCache
) -> ComparedModel:
    runs = [trials.get(run_name(config.label, seed, seeds)) for seed in range(seeds)]
    complete = [trial for trial in runs if trial is not None and trial.state == TrialState.COMPLETE]
    costs = tuple(cost for trial in complete if (cost := cost_of(trial, study.get_trials(deepcopy=False))) is not None)
    unused = tuple(f"{text} does not apply" for text, _ in config.unused)
    endings = tuple(
        describe_ending(trial, ": ") for trial in runs if trial is None or trial.state != TrialState.COMPLETE
    )
    folders = tuple(bundles.put(study, trial) for trial in complete)
    return ComparedModel(config.label, "preset", folders, costs, (*endings, *unused))


def cost_of(trial: FrozenTrial, trials: Iterable[FrozenTrial]) -> Cost | None:
    """Return the cost of a finished trial among the `trials` of its study; None if it recorded none."""
    epochs, record = len(trial.intermediate_values), TrialRecord.of(trial)
    if not epochs or record.seconds is None:
        return None
    return Cost(
        epochs=epochs,
        seconds_per_epoch=float(record.seconds) / epochs,
        peak_memory=record.peak_memory,
        device=record.device,
        trainable_parameters=record.trainable_parameters,
        shared=record.device.startswith("cpu") and any(_was_trained_before(other, trial) for other in trials),
    )


def _was_trained_before(other: FrozenTrial, trial: FrozenTrial) -> bool:
    """Return whether the process that trained `trial` trained `other` before."""
    if other.datetime_start is None or trial.datetime_start is None:
        return False
    if moment(other.datetime_start) >= moment(trial.datetime_start):
        return False
    # With one process for each trial, every trial has a worker name of its own.
    worker = TrialRecord.of(trial).worker
    return worker is not None and TrialRecord.of(other).worker == worker


def _cost_of_bundle(db: Database, manifest: Manifest) -> Cost | None:
    """Return the cost of the trial of a bundle if this database has that very trial, else None.

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
