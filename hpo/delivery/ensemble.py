"""Several trials of one study as one bundle whose probabilities are the weighted mean of theirs.

Each member is calibrated by its own temperature and chosen by `greedy_ensemble` on the validation predictions that the
search has stored. The ensemble is calibrated once more as a whole: on the predictions for each half of these images by
members that were chosen on the other half.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hpo.bundle.bundle import check_out, write_bundle
from hpo.bundle.calibrate import calibration_of
from hpo.bundle.manifest import Manifest, Member, RobustnessFigures
from hpo.bundle.model import pack_members
from hpo.bundle.validation import Validation
from hpo.delivery.ensemble_candidates import EnsembleCandidate, EnsembleCandidates
from hpo.delivery.export import export_trial
from hpo.delivery.selection import (
    Chosen,
    CrossCheck,
    JointComparison,
    Rows,
    WeightedMetric,
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
class JointModel:
    """A bundle of several trials, an ensemble or a soup, and its worth beside the best trial alone."""

    manifest: Manifest
    """The manifest of a single trial where no combination is better: stage `exported`."""
    best: int
    """The trial that is best alone on the validation part."""
    validation: JointComparison
    """On the images by which the choice was made, so it is biased upwards."""
    held_out: JointComparison | None
    """Each half of the validation part under the choice made by the other half; None for too few images. The trials to
    choose from and their best epochs were found on all of these images."""
    altered: JointComparison | None = None
    """On the altered images, by which the choice was made too; None where clean images alone count in the study."""

    def metrics(self, report: Report) -> dict[str, Any]:
        """Return metrics.json of the bundle; `report` is the joint model's on the validation part."""
        held_out = asdict(self.held_out) if self.held_out else None
        joined = {"best_trial": self.best, "validation": asdict(self.validation), "held_out": held_out}
        if self.altered:
            joined["altered"] = asdict(self.altered)
        return {"validation": report.to_dict(), "test": None, "test_openings": [], "joined": joined}


@dataclass(frozen=True)
class EnsembleChoice:
    """The ensemble that some images choose, with the probabilities of all images."""

    temperatures: list[float]
    members: Probabilities
    """(k, n + m, C) for the images of `EnsembleCandidates.rows`, each under its temperature."""
    best: int
    """The member that is best alone."""
    picks: tuple[int, ...]
    """Members, each as often as it was picked."""

    @property
    def mean(self) -> Probabilities:
        """(n + m, C) probabilities of the ensemble."""
        return mean_of(self.members, self.picks)


def ensemble(candidates: EnsembleCandidates, out: Path, *, force: bool = False) -> JointModel:
    """Write the best ensemble of `candidates` to `out`, or the best trial alone where no combination is better.

    Raises BundleError where a checkpoint has gone meanwhile, or `out` may not be written.
    """
    check_out(out, force=force)
    return write_ensemble(candidates, choose(candidates), out, force=force)


def choose(candidates: EnsembleCandidates, rows: Rows | None = None) -> EnsembleChoice:
    """Choose temperatures, best member and ensemble by the validation images `rows`, (n,) bool, or by all."""
    by = np.ones(len(candidates.labels), dtype=np.bool_) if rows is None else rows
    return choose_members([candidate.logits for candidate in candidates.found], candidates, by)


def choose_members(
    logits: Sequence[Logits], candidates: EnsembleCandidates, by: Rows, most: int | None = None
) -> EnsembleChoice:
    """Choose as `choose` does among models with the logits (n + m, C) each, which need not be the candidates'.

    `most` is the largest number of different members.
    """
    labels, n = candidates.labels, len(candidates.labels)
    temperatures = [fit_temperature(labels[by], one[:n][by]) for one in logits]
    members = np.stack([probabilities(*pair) for pair in zip(logits, temperatures, strict=True)])
    some, metric = chosen_by(candidates, by)
    seen, found = labels[candidates.rows[some]], members[:, some]
    picks = greedy_ensemble(seen, found, metric, most=most)
    return EnsembleChoice(temperatures, members, ranked(seen, found, metric)[0], picks)


def chosen_by(candidates: EnsembleCandidates, by: Rows) -> tuple[Rows, str | WeightedMetric]:
    """Return the rows (n + m,) bool that show the validation images `by`, (n,) bool, and the metric over them."""
    some: Rows = by[candidates.rows]
    metric = candidates.metric
    return some, metric if isinstance(metric, str) else metric.of(some)


def cross_check(candidates: EnsembleCandidates) -> CrossCheck | None:
    """Measure ensembles on images that their members were not chosen by; None for fewer than two images."""

    def choose_by(rows: Rows) -> Chosen:
        chosen = choose(candidates, rows)
        return Chosen(chosen.members[chosen.best], chosen.mean)

    return cross_checked(candidates.labels, candidates.spec.metric, choose_by, candidates.rows)


def write_ensemble(
    candidates: EnsembleCandidates, choice: EnsembleChoice, out: Path, *, force: bool = False
) -> JointModel:
    """Write the chosen ensemble to `out`, and measure it beside the best trial alone."""
    labels, n = candidates.labels, len(candidates.labels)
    validation = Validation(labels, log_probabilities(choice.mean[:n]).astype(np.float32))
    clean, altered = comparisons(candidates, choice.members[choice.best], choice.mean)
    checked = cross_check(candidates)
    extras = candidates.extras(checked, None)
    result = JointModel(
        manifest=with_own_figures(_manifest(candidates, choice, validation, extras.crossed), clean, altered),
        best=candidates.found[choice.best].trial.number,
        validation=clean,
        held_out=checked.comparison if checked else None,
        altered=altered,
    )
    if result.manifest.members:
        model = pack_members(candidates.weights(candidates.found[pick]) for pick in weights_of(choice.picks))
        metrics = result.metrics(report(*validation, result.manifest.classes))
        extras = replace(extras, known=candidates.known)
        write_bundle(out, result.manifest, model, metrics, validation=validation, extras=extras, force=force)
    else:
        export_trial(candidates.study, candidates.found[choice.best].trial, candidates.store, out, force=force)
    return result


def with_own_figures(manifest: Manifest, clean: JointComparison, altered: JointComparison | None) -> Manifest:
    """Return the manifest of a joint model with its own figures where altered images count; else as it is."""
    before = manifest.robustness
    if before is None or altered is None or manifest.stage == "exported":
        return manifest
    figures = RobustnessFigures(weight=before.weight, clean=clean.joined, altered=altered.joined)
    return manifest.model_copy(update={"robustness": figures})


def comparisons(
    candidates: EnsembleCandidates, best: Probabilities, joined: Probabilities
) -> tuple[JointComparison, JointComparison | None]:
    """Compare (n + m, C) probabilities on the clean images, and on the altered ones where there are any."""
    labels, n, metric = candidates.labels, len(candidates.labels), candidates.spec.metric
    clean = compare(labels, best[:n], joined[:n], metric)
    shown = labels[candidates.rows[n:]]
    return clean, compare(shown, best[n:], joined[n:], metric) if len(shown) else None


def _manifest(
    candidates: EnsembleCandidates, choice: EnsembleChoice, validation: Validation, crossed: Logits | None
) -> Manifest:
    """Return the manifest of the ensemble, or that of the trial that it consists of, where there is only one."""
    found = candidates.found
    base, weights = found[choice.best].manifest, weights_of(choice.picks)
    if len(weights) == 1:
        return base.model_copy(update={"calibration": calibration_of(found[choice.best].validation)})
    members = tuple(member_of(found[pick], weight, choice.temperatures[pick]) for pick, weight in weights.items())
    calibration = calibration_of(validation, crossed)
    changes = {"members": members, "calibration": calibration, "compared": candidates.compared}
    return base.model_copy(update={"stage": "ensemble", **changes})


def member_of(candidate: EnsembleCandidate, weight: float, temperature: float) -> Member:
    """Return the entry of a candidate in the manifest of an ensemble."""
    manifest = candidate.manifest
    steps = manifest.preprocessing
    return Member(
        trial=manifest.trial, weight=weight, temperature=temperature, best_epoch=manifest.best_epoch,
        mean=steps.mean, std=steps.std, config=manifest.config,
    )  # fmt: skip
