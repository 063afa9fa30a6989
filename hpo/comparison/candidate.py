"""Candidates: the bundles that a comparison measures, written from the trials that it trained or was pointed at."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from optuna.trial import TrialState

from hpo.comparison.contestant import TrialName
from hpo.comparison.cost import Cost, cost_of, recorded_cost
from hpo.comparison.entrants import Entrant, run_name
from hpo.delivery.bundle import read_bundle
from hpo.delivery.export import choose_trial, export_trial, is_of_trial, trial_manifest
from hpo.errors import BundleError
from search_spaces import RUN
from storage import open_store, open_study, read_spec

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

    from storage import Database

JOINED = "its members were picked on the validation part, so its accuracy there and on the corrupted copy flatters"


@dataclass(frozen=True)
class Candidate:
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
class Shelf:
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


def trained(shelf: Shelf, study: optuna.Study, entrants: Sequence[Entrant], seeds: int) -> list[Candidate]:
    """The entrants as `study` has trained them; one without a complete run has no folder and says why."""
    runs = {trial.params[RUN]: trial for trial in study.get_trials(deepcopy=False) if RUN in trial.params}
    return [
        _trained(shelf, study, entrant, [runs.get(run_name(entrant.label, s, seeds)) for s in range(seeds)])
        for entrant in entrants
    ]


def _trained(shelf: Shelf, study: optuna.Study, entrant: Entrant, runs: Sequence[FrozenTrial | None]) -> Candidate:
    complete = [trial for trial in runs if trial is not None and trial.state == TrialState.COMPLETE]
    trials = study.get_trials(deepcopy=False)
    costs = tuple(cost for trial in complete if (cost := cost_of(trial, trials)) is not None)
    unused = tuple(f"{text} does not apply" for text, _ in entrant.unused)
    ended = tuple(ending(trial) for trial in runs if trial is None or trial.state != TrialState.COMPLETE)
    folders = tuple(shelf.put(study, trial) for trial in complete)
    return Candidate(entrant.label, "preset", folders, costs, (*ended, *unused))


def ending(trial: FrozenTrial | None) -> str:
    """Why a run gave no model, in words."""
    if trial is None:
        return "not trained"
    return f"{trial.state.name.lower()}: {trial.user_attrs.get('reason', 'no reason on record')}"


def from_trial(shelf: Shelf, name: TrialName) -> Candidate:
    """A complete trial of a study; raises StudyError or BundleError where there is none."""
    study = open_study(shelf.db, name.study)
    trial = choose_trial(study, name.number)
    cost = cost_of(trial, study.get_trials(deepcopy=False))
    return Candidate(name.label, "trial", (shelf.put(study, trial),), (cost,) if cost else ())


def from_bundle(db: Database | None, label: str, folder: Path) -> Candidate:
    """A bundle, with what its training cost where the database knows that; BundleError where it is none."""
    manifest = read_bundle(folder).manifest
    cost = recorded_cost(db, manifest) if db is not None else None
    notes = (JOINED,) if manifest.stage in ("ensemble", "soup") else ()
    return Candidate(label, "bundle", (folder,), (cost,) if cost else (), notes)


def slug(text: str) -> str:
    """`text` as the plain name of a folder."""
    return re.sub(r"[^A-Za-z0-9._=-]+", "-", text).strip("-.")[:60] or "run"
