"""Export a study's best trial, finished: the images are opened, the steps are tried, and the result is a bundle.

Where nothing can be tried the trial is exported as it is, with the reason; where nothing helps it is too, and its
metrics.json says what was tried.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import safetensors.torch

from hpo.bundle.bundle import MODEL, Extras, check_out, write_bundle
from hpo.bundle.calibrate import calibration_of
from hpo.bundle.manifest import Manifest
from hpo.bundle.model import Tensors, pack_members
from hpo.bundle.own_data import reopen_same
from hpo.bundle.validation import Validation
from hpo.data import ImageDigests, Progress
from hpo.data.cache import remembered_data
from hpo.delivery.ensemble import JointModel, comparisons, member_of
from hpo.delivery.ensemble_candidates import (
    EnsembleCandidate,
    EnsembleCandidates,
    ensemble_candidates,
    read_candidate,
)
from hpo.delivery.export import choose_trial, export_trial, read_best, remember_weights_of
from hpo.delivery.finishing import FINISHING, FinishedChoice, Finishing, finish
from hpo.delivery.finishing_task import Budget, ChosenModel, FinishingTask
from hpo.delivery.selection import compare
from hpo.delivery.validation_images import ValidationImages
from hpo.errors import BundleError, DataError, HpoError
from hpo.evaluation.calibration import probabilities
from hpo.evaluation.metrics import Report, report
from hpo.search.trial_record import TrialRecord
from storage import CheckpointStore, Database, open_study, read_spec

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

LEAST_IMAGES = 100
"""Validation images below which no step could be shown to help: one image more or less is a point of accuracy."""

CANDIDATES = 10
"""Trials that may be joined with the best one."""

SHARE_OF_SEARCH = 0.1
"""Time for finishing over that of the study's trials, within the two limits below."""

LEAST_SECONDS, MOST_SECONDS = 120.0, 1800.0


@dataclass(frozen=True)
class FinishOptions:
    """Options of finishing."""

    cache: Path
    mode: str = "all"
    data: Path | None = None
    """The images of the study; None looks for them where a worker on this machine found them."""
    data_named: bool = False
    """Whether the user has named them: other data are then an error, not a reason to leave the trial as it is."""
    device: str = "cpu"
    seconds: float | None = None
    """The time that it may take; None is a tenth of what the study's trials took, two minutes at least."""


@dataclass(frozen=True)
class FinishCallbacks:
    """Callbacks for the progress of finishing."""

    decoding: Callable[[], AbstractContextManager[Progress | None]] = nullcontext
    """Gives the progress display for the time of the decoding."""
    on_progress: Callable[[str, float], None] = lambda doing, left: None
    """Gets what comes next, and the seconds that are left."""


class FinishedExport(NamedTuple):
    """A bundle that was written, and how it was finished."""

    manifest: Manifest
    report: Report
    """On the validation part. A finished model has been chosen by these images."""
    finishing: Finishing


def export_finished(  # noqa: PLR0913 - where from, where to, and how
    db: Database,
    study_name: str,
    store: CheckpointStore,
    out: Path,
    options: FinishOptions,
    callbacks: FinishCallbacks | None = None,
    *,
    trial: int | Literal["cheap"] | None = None,
    force: bool = False,
) -> FinishedExport:
    """Write the best trial of a study, finished as `options` say, to `out`; or the trial number `trial`.

    "cheap" is the cheapest of those that cannot be told from the best. A trial that is named, or cheap, is not joined
    with others. The path of the trial's weights file is stored in `options.cache`, for a retraining on this machine:
    the bundle has its name alone. Raises StudyError where there is no such study, BundleError where there is no such
    trial, its checkpoint is gone, or `out` may not be written, and DataError where `options.data` are not the study's.
    """
    check_out(out, force=force)
    study = open_study(db, study_name)
    chosen = choose_trial(study, trial)
    remember_weights_of(chosen, options.cache)
    prepared = prepare(study, chosen, store, options, callbacks, named=trial is not None)
    if isinstance(prepared, str):
        exported = export_trial(study, chosen, store, out, force=force)
        return FinishedExport(*exported, Finishing(options.mode, reason=prepared))
    done = finish(prepared, options.mode)
    if done.finishing.taken:
        return write_finished(prepared, done, out, force=force)
    notes = {FINISHING: done.finishing.to_dict()}
    return FinishedExport(*export_trial(study, chosen, store, out, force=force, notes=notes), done.finishing)


def prepare(
    study: Study,
    trial: FrozenTrial,
    store: CheckpointStore,
    options: FinishOptions,
    callbacks: FinishCallbacks | None = None,
    *,
    named: bool = False,
) -> FinishingTask | str:
    """Return the task of finishing a trial, or why nothing can be tried, in words; `named` is not joined with others.

    Raises DataError where `options.data`, which the user has named, are not the study's.
    """
    return _Preparation(study, trial, store, options, callbacks or FinishCallbacks(), named).task()


@dataclass(frozen=True)
class _Preparation:
    """From a trial to the task of finishing it, or to the reason why there is none."""

    study: Study
    trial: FrozenTrial
    store: CheckpointStore
    options: FinishOptions
    callbacks: FinishCallbacks
    named: bool
    """Whether the user has named the trial."""

    def task(self) -> FinishingTask | str:
        """Return the task, or why nothing can be tried, in words."""
        if self.options.mode == "none":
            return "--finish none"
        spec = read_spec(self.study)
        try:
            candidate = read_candidate(self.study, spec, self.store, self.trial)
            if (count := len(candidate.validation.labels)) < LEAST_IMAGES:
                return f"{count:,} validation images cannot show that anything helps, {LEAST_IMAGES} could"
            data = self.options.data or remembered_data(self.options.cache, spec.data_fingerprint)
            if data is None:
                return "where the images of the study are is not known here; give --data DATA"
            return self._task(candidate, data)
        except DataError as error:
            if self.options.data_named:
                raise
            return f"{error}; give --data DATA"
        except HpoError as error:
            return str(error)

    def _task(self, candidate: EnsembleCandidate, data: Path) -> FinishingTask:
        spec, manifest, cache = read_spec(self.study), candidate.manifest, self.options.cache
        with self.callbacks.decoding() as progress:
            maker, way_out = f"study {self.study.study_name!r}", "give the same data"
            dataset = reopen_same(manifest, data, cache, progress, maker=maker, way_out=way_out)
        images = ValidationImages.of(dataset, data, cache, manifest, spec.robustness)
        _refuse_other_predictions(candidate, images)
        candidates, alone = self._others(candidate)
        checkpoint = read_best(self.store, self.study, self.trial)
        tensors: Tensors = safetensors.torch.load(checkpoint.files[MODEL])
        budget = Budget(self._seconds(), self.callbacks.on_progress)
        return FinishingTask(
            manifest, tensors, candidate.logits, dataset, images, cache, budget, self.options.device, candidates, alone
        )

    def _others(self, candidate: EnsembleCandidate) -> tuple[EnsembleCandidates | None, str]:
        """Return the trials that may be joined, this one first, or why there are none."""
        if self.named:
            return None, "--trial names one trial"
        try:
            found = ensemble_candidates(self.study, self.store, CANDIDATES)
        except BundleError:
            return None, "no other trial has weights and predictions that can be joined with it"
        if found.found[0].trial.number != candidate.trial.number:
            return None, "its predictions are not those of the trials that could be joined"
        return found, ""

    def _seconds(self) -> float:
        if self.options.seconds is not None:
            return self.options.seconds
        spent = sum(TrialRecord.of(one).seconds or 0 for one in self.study.get_trials(deepcopy=False))
        return min(MOST_SECONDS, max(LEAST_SECONDS, SHARE_OF_SEARCH * spent))


def _refuse_other_predictions(candidate: EnsembleCandidate, images: ValidationImages) -> None:
    """Raise BundleError where the stored predictions are of other images than those that were opened."""
    same = np.array_equal(candidate.validation.labels, images.val.labels)
    if same and candidate.altered is not None and images.altered is not None:
        same = np.array_equal(candidate.altered.rows, images.altered.rows)
    if not same:
        raise BundleError("the stored predictions are not of the validation images that were opened")


def write_finished(task: FinishingTask, done: FinishedChoice, out: Path, *, force: bool = False) -> FinishedExport:
    """Write the finished model as a bundle to `out`."""
    choice, images, n = done.choice, task.images, len(task.images.val)
    validation, crossed = images.validation(choice.logits), done.crossed[:n]
    manifest = _manifest(task, done, validation)
    found = report(*validation, manifest.classes)
    metrics: dict[str, Any] = {
        "validation": found.to_dict(), "test": None, "test_openings": [],
        **_joined(task, done, manifest, found), **images.altered_scores(choice.logits),
        FINISHING: done.finishing.to_dict(),
    }  # fmt: skip
    extras = Extras(crossed, ImageDigests.of(task.dataset), images.altered_predictions(done.crossed))
    write_bundle(out, manifest, _model(task, choice), metrics, validation=validation, extras=extras, force=force)
    return FinishedExport(manifest, found, done.finishing)


def _manifest(task: FinishingTask, done: FinishedChoice, validation: Validation) -> Manifest:
    choice, before, candidates = done.choice, task.manifest, task.candidates
    changes: dict[str, Any] = dict(choice.changes)
    changes["calibration"] = calibration_of(validation, done.crossed[: len(validation.labels)])
    changes["robustness"] = task.images.robustness(choice.logits) or before.robustness
    # Each step that was measured on the same images was taken or not: so many models could have been the result.
    outcomes = 2 ** sum(one.gain is not None for one in done.finishing.tried)
    changes["compared"] = (before.compared or 1) * outcomes
    if choice.members:
        assert candidates is not None
        members = [member_of(candidates.found[one.candidate], one.weight, one.temperature) for one in choice.members]
        changes |= {"stage": "ensemble", "members": tuple(members)}
    if candidates is not None and changes.get("stage", "exported") != "exported":
        changes["compared"] = candidates.compared * outcomes
    return before.model_copy(update=changes)


def _joined(task: FinishingTask, done: FinishedChoice, manifest: Manifest, found: Report) -> dict[str, Any]:
    """Return the comparison of several trials with the best one, as every joint model has it; nothing for one trial."""
    if manifest.stage == "exported" or task.candidates is None:
        return {}
    n, labels, metric = len(task.images.val), task.images.val.labels, task.images.metric
    alone, joined = probabilities(task.logits), probabilities(done.choice.logits)
    clean, altered = comparisons(task.candidates, alone, joined)
    held_out = compare(labels, alone[:n], probabilities(done.crossed[:n]), metric)
    joint = JointModel(manifest, task.manifest.trial, clean, held_out, altered)
    return {"joined": joint.metrics(found)["joined"]}


def _model(task: FinishingTask, choice: ChosenModel) -> bytes:
    own = safetensors.torch.save({name: tensor.cpu().contiguous() for name, tensor in choice.read().items()})
    if not choice.members:
        return own
    assert task.candidates is not None
    candidates = task.candidates
    return pack_members(
        candidates.weights(candidates.found[one.candidate]) if one.candidate else own for one in choice.members
    )
