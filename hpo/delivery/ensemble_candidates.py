"""The trials of a study that may be joined: the best ones whose weights and predictions are still stored."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from optuna.trial import TrialState

from hpo.bundle.bundle import Extras
from hpo.bundle.calibrate import augmented_validation
from hpo.bundle.manifest import Manifest
from hpo.bundle.validation import AlteredPredictions, Validation
from hpo.data import ImageDigests
from hpo.data.dataset import Labels
from hpo.data.names import shortened
from hpo.delivery.export import (
    altered_of,
    compared_trials,
    known_images,
    read_best,
    trial_manifest,
    validation_of,
)
from hpo.delivery.selection import CrossCheck, WeightedMetric
from hpo.errors import BundleError
from hpo.evaluation.metrics import Logits
from hpo.search.status import kept_first
from storage import CheckpointStore, StudySpec, read_spec

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial


NAMED = 5
"""Trials that a line names; it counts the others."""


@dataclass(frozen=True)
class EnsembleCandidate:
    """A complete or pruned trial whose best weights are stored."""

    trial: FrozenTrial
    manifest: Manifest
    validation: Validation
    altered: AlteredPredictions | None = None
    """Where altered images count in the study."""

    @property
    def logits(self) -> Logits:
        """(n + m, C) float32: of the n validation images, then of the m altered ones."""
        clean = self.validation.logits
        return clean if self.altered is None else np.concatenate([clean, self.altered.logits])


@dataclass(frozen=True)
class EnsembleCandidates:
    """The trials of a study that may be joined, and the reasons why others may not."""

    study: Study
    spec: StudySpec
    store: CheckpointStore
    found: tuple[EnsembleCandidate, ...]
    """At least two, best first, of one image size, with predictions on the same images."""
    left_out: tuple[str, ...]
    """A line for each reason why some of the best trials are not candidates."""

    @property
    def labels(self) -> Labels:
        """(n,) int64 of the validation part."""
        return self.found[0].validation.labels

    @property
    def rows(self) -> Labels:
        """(n + m,) the row of the validation part of each image by which models are chosen: itself, or altered."""
        rows, altered = np.arange(len(self.labels)), self.found[0].altered
        return rows if altered is None else np.concatenate([rows, altered.rows])

    @property
    def metric(self) -> str | WeightedMetric:
        """The metric by which models are chosen, over the images of `rows`."""
        altered = np.arange(len(self.rows)) >= len(self.labels)
        return WeightedMetric(self.spec.metric, altered, self.spec.robustness) if altered.any() else self.spec.metric

    @property
    def known(self) -> ImageDigests | None:
        """The images that all of them were trained with; None where these are not known."""
        return known_images(self.store, *(candidate.trial for candidate in self.found))

    @property
    def compared(self) -> int:
        """Number of disjoint sets of this size among the compared trials; this set is the best of them."""
        return math.ceil((self.found[0].manifest.compared or 1) / len(self.found))

    def extras(self, checked: CrossCheck | None, known: ImageDigests | None) -> Extras:
        """Return what a bundle of these keeps: predictions by members that were chosen without the image."""
        if checked is None:
            return Extras(known=known)
        n, logits = len(self.labels), checked.logits
        altered = AlteredPredictions(self.rows[n:], logits[n:]) if len(logits) > n else None
        return Extras(logits[:n], known, altered)

    def weights(self, candidate: EnsembleCandidate) -> bytes:
        """Read the candidate's weights, which are not kept: those of all at once may not fit into the memory."""
        return read_best(self.store, self.study, candidate.trial).files["model.safetensors"]


def ensemble_candidates(study: Study, store: CheckpointStore, top: int) -> EnsembleCandidates:
    """Return the `top` best trials of a study that can be joined; BundleError for fewer than two.

    Complete trials come first; where there are fewer, pruned ones whose checkpoints are kept follow.
    """
    spec = read_spec(study)
    best = _with_weights(kept_first(study.get_trials(deepcopy=False)), store, top)
    found: list[EnsembleCandidate] = []
    reasons: dict[str, list[int]] = {}
    for trial in best:
        try:
            candidate = read_candidate(study, spec, store, trial)
            _refuse_misfit(candidate, found)
        except BundleError as error:
            reasons.setdefault(str(error), []).append(trial.number)
        else:
            found.append(candidate)
    left_out = tuple(f"{trials_named(numbers)}: {reason}" for reason, numbers in reasons.items())
    if len(found) < 2:
        trials = "1 complete trial" if len(best) == 1 else f"the {len(best)} best complete trials"
        why = "; ".join(left_out) or "let workers finish more"
        raise BundleError(
            f"study {study.study_name!r}: {len(found)} of {trials} can be joined, but two are needed; {why}"
        )
    return EnsembleCandidates(study, spec, store, tuple(found), left_out)


def _with_weights(trials: Sequence[FrozenTrial], store: CheckpointStore, top: int) -> list[FrozenTrial]:
    """Return the first `top` trials; a pruned one only where its checkpoint is stored, as most are not kept."""
    return [
        trial for trial in trials if trial.state == TrialState.COMPLETE or store.has(trial.number, "best")
    ][:top]  # fmt: skip


def read_candidate(study: Study, spec: StudySpec, store: CheckpointStore, trial: FrozenTrial) -> EnsembleCandidate:
    """Return the candidate; BundleError with the reason why the trial cannot be one."""
    if not store.has(trial.number, "best"):
        raise BundleError("checkpoint not kept; give `hpo run` a larger --keep")
    manifest = trial_manifest(study.study_name, spec, trial, compared=compared_trials(study))
    reason = augmented_validation(manifest.config)
    if reason is not None:
        raise BundleError(f"{reason}, so its predictions compare with no other's")
    checkpoint = read_best(store, study, trial)
    altered = altered_of(checkpoint) if spec.robustness else None
    if spec.robustness and altered is None:
        raise BundleError("its predictions on altered images, which count in this study, were not stored")
    return EnsembleCandidate(trial, manifest, validation_of(checkpoint), altered)


def _refuse_misfit(candidate: EnsembleCandidate, found: list[EnsembleCandidate]) -> None:
    """Raise BundleError where a candidate cannot join those found so far."""
    if not found:
        return
    ours, theirs = (one.manifest.config.image_size for one in (candidate, found[0]))
    if ours != theirs:
        raise BundleError(f"image size {ours}, but {theirs} is the best trial's")
    splits = [one.manifest.data.split_digest for one in (candidate, found[0])]
    if all(splits) and splits[0] != splits[1]:
        raise BundleError("trained and validated on another split of the images than the best trial")
    if not np.array_equal(candidate.validation.labels, found[0].validation.labels):
        raise BundleError("validated on other images than the best trial")
    theirs_altered, ours_altered = (one.altered for one in (candidate, found[0]))
    if theirs_altered and ours_altered and not np.array_equal(theirs_altered.rows, ours_altered.rows):
        raise BundleError("measured on other altered images than the best trial")


def trials_named(numbers: Iterable[int]) -> str:
    """Return `trial 3`, `trials 3, 4` or `trials 3, 4, 7, 8, 9 and 2 more`."""
    some = [str(number) for number in sorted(numbers)]
    return f"trial{'s' if len(some) > 1 else ''} {shortened(some, NAMED)}"
