"""What joining several trials of a study gave, whether by their probabilities or by their weights.

Several trials of one study as one bundle whose probabilities are the weighted mean of theirs.

Each member is calibrated by its own temperature and chosen by `greedy_ensemble` on the validation predictions that the
search has stored; the ensemble is calibrated once more as a whole, on what each half of these images gives by members
that the other half has chosen.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpo.bundle.bundle import Extras, check_out, write_bundle
from hpo.bundle.calibrate import calibration_of
from hpo.bundle.manifest import Manifest, Member
from hpo.bundle.model import pack_members
from hpo.bundle.validation import Validation
from hpo.delivery.ensemble_candidates import EnsembleCandidate, EnsembleCandidates
from hpo.delivery.export import export_trial
from hpo.delivery.selection import (
    Chosen,
    Comparison,
    CrossCheck,
    Rows,
    compare,
    cross_checked,
    greedy_ensemble,
    mean_of,
    ranked,
    weights_of,
)
from hpo.evaluation.calibration import Probabilities, fit_temperature, log_probabilities, probabilities
from hpo.evaluation.metrics import Logits, Report, report


@dataclass(frozen=True)
class Joined:
    """The bundle that was written, and what the joint model is worth beside the best trial alone."""

    manifest: Manifest
    """Of a single trial where no combination is better: stage `exported`."""
    best: int
    """The trial that is best alone on the validation part."""
    validation: Comparison
    """On the images that the choice was made by, so it flatters."""
    held_out: Comparison | None
    """Each half of the validation part under the choice made by the other half; None for too few images. What there was
    to choose from, the best trials and their best epochs, was found on all of them."""

    def metrics(self, report: Report) -> dict[str, Any]:
        """metrics.json of the bundle; `report` is the joint model's on the validation part."""
        held_out = asdict(self.held_out) if self.held_out else None
        joined = {"best_trial": self.best, "validation": asdict(self.validation), "held_out": held_out}
        return {"validation": report.to_dict(), "test": None, "test_openings": [], "joined": joined}


@dataclass(frozen=True)
class EnsembleChoice:
    """What the predictions on some images choose, as probabilities of all images."""

    temperatures: list[float]
    members: Probabilities
    """(k, n, C), each under its temperature."""
    best: int
    """The member that is best alone."""
    picks: tuple[int, ...]
    """Members, as often as they were picked."""

    @property
    def mean(self) -> Probabilities:
        """(n, C) of the ensemble."""
        return mean_of(self.members, self.picks)


def ensemble(candidates: EnsembleCandidates, out: Path, *, force: bool = False) -> Joined:
    """Write the best ensemble of `candidates` to `out`, or the best trial alone where no combination is better.

    Raises BundleError where a checkpoint has gone meanwhile, or `out` may not be written.
    """
    check_out(out, force=force)
    return join(candidates, choose(candidates), out, force=force)


def choose(candidates: EnsembleCandidates, rows: Rows | None = None) -> EnsembleChoice:
    """Temperatures, best member and ensemble by the validation images `rows`, (n,) bool, or by all."""
    labels, metric = candidates.labels, candidates.spec.metric
    seen = np.ones(len(labels), dtype=np.bool_) if rows is None else rows
    logits = [candidate.validation.logits for candidate in candidates.found]
    temperatures = [fit_temperature(labels[seen], member[seen]) for member in logits]
    members = np.stack([probabilities(*pair) for pair in zip(logits, temperatures, strict=True)])
    picks = greedy_ensemble(labels[seen], members[:, seen], metric)
    return EnsembleChoice(temperatures, members, ranked(labels[seen], members[:, seen], metric)[0], picks)


def cross_check(candidates: EnsembleCandidates) -> CrossCheck | None:
    """The ensemble on images that its members were not chosen by; None for fewer than two images."""

    def by_half(rows: Rows) -> Chosen:
        chosen = choose(candidates, rows)
        return Chosen(chosen.members[chosen.best], chosen.mean)

    return cross_checked(candidates.labels, candidates.spec.metric, by_half)


def join(candidates: EnsembleCandidates, choice: EnsembleChoice, out: Path, *, force: bool = False) -> Joined:
    """Write the ensemble that was chosen to `out`, and measure it beside the best trial alone."""
    labels, metric = candidates.labels, candidates.spec.metric
    validation = Validation(labels, log_probabilities(choice.mean).astype(np.float32))
    checked = cross_check(candidates)
    crossed = checked.logits if checked else None
    joined = Joined(
        manifest=_manifest(candidates, choice, validation, crossed),
        best=candidates.found[choice.best].trial.number,
        validation=compare(labels, choice.members[choice.best], choice.mean, metric),
        held_out=checked.comparison if checked else None,
    )
    _write(candidates, choice, joined, (validation, crossed), out, force=force)
    return joined


def _manifest(
    candidates: EnsembleCandidates, choice: EnsembleChoice, validation: Validation, crossed: Logits | None
) -> Manifest:
    """Of the ensemble; of the one trial that it consists of, where there is only one."""
    found = candidates.found
    base, weights = found[choice.best].manifest, weights_of(choice.picks)
    if len(weights) == 1:
        return base.model_copy(update={"calibration": calibration_of(found[choice.best].validation)})
    members = tuple(_member(found[pick], weight, choice.temperatures[pick]) for pick, weight in weights.items())
    calibration = calibration_of(validation, crossed)
    changes = {"members": members, "calibration": calibration, "compared": candidates.compared}
    return base.model_copy(update={"stage": "ensemble", **changes})


def _member(candidate: EnsembleCandidate, weight: float, temperature: float) -> Member:
    manifest = candidate.manifest
    steps = manifest.preprocessing
    return Member(
        trial=manifest.trial, weight=weight, temperature=temperature, best_epoch=manifest.best_epoch,
        mean=steps.mean, std=steps.std, config=manifest.config,
    )  # fmt: skip


def _write(
    candidates: EnsembleCandidates,
    choice: EnsembleChoice,
    joined: Joined,
    known: tuple[Validation, Logits | None],
    out: Path,
    *,
    force: bool,
) -> None:
    if not joined.manifest.members:
        trial = candidates.found[choice.best].trial
        export_trial(candidates.study, trial, candidates.store, out, force=force)
        return
    model = pack_members(candidates.weights(candidates.found[pick]) for pick in weights_of(choice.picks))
    validation, crossed = known
    metrics = joined.metrics(report(*validation, joined.manifest.classes))
    extras = Extras(crossed, candidates.known)
    write_bundle(out, joined.manifest, model, metrics, validation=validation, extras=extras, force=force)
