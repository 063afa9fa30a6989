"""The lines that the delivery commands print."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from hpo.data.relabelling import missing_line
from hpo.evaluation.metrics_table import accuracy_line

if TYPE_CHECKING:
    from hpo.bundle.bundle import Bundle
    from hpo.bundle.evaluate import Selection
    from hpo.bundle.manifest import Calibration, FoldValues, Manifest, Scores
    from hpo.bundle.measurement import AveragedViews, ModelMeasurement
    from hpo.bundle.predict import Counts
    from hpo.delivery.ensemble import JointModel
    from hpo.delivery.retrain import Retrained
    from hpo.delivery.selection import JointComparison
    from hpo.evaluation.calibration import Abstention, Reliability
    from hpo.evaluation.metrics import Report
    from hpo.training import EpochResult


def augmented_note(manifest: Manifest) -> str:
    """Return the note on a trial's validation figure where its images were augmented; else an empty text."""
    share = manifest.config.validation_augmented
    return f", on augmented images (validation_augmented is {share:g}), so lower than on plain ones" if share else ""


def fold_lines(manifest: Manifest) -> list[str]:
    """Return what a bundle of a trial over folds holds; nothing for others."""
    if manifest.data.folds is None:
        return []
    if manifest.folds is None:
        return [f"of {manifest.data.folds} folds this trial trained the first alone, so its value is no mean"]
    return [
        mean_line(manifest.folds, manifest.value_name),
        "the model is that of the first fold, and all above but the mean is measured on the images that it left out; "
        f"`hpo retrain` trains on all of them for {_epochs(manifest.epochs_to_retrain)}",
    ]


def mean_line(folds: FoldValues, metric: str) -> str:
    """Return the value of a trial over folds, with its noise."""
    count = len(folds.values)
    noise = "" if folds.standard_error is None else f" ± {folds.standard_error:.4f} (standard error)"
    of = "in 1 fold" if count == 1 else f"over {count} folds"
    return f"mean {metric} {of} {fmean(folds.values):.4f}{noise}: {', '.join(f'{v:.4f}' for v in folds.values)}"


def changes_lines(manifest: Manifest) -> list[str]:
    """Return the decisions on single images that the model's data follow; nothing where there are none."""
    changes = manifest.data.changes
    return [f"its data: {changes.line()}"] if changes else []


def robustness_lines(manifest: Manifest) -> list[str]:
    """Return what the value of a trial is made of; nothing where clean images alone counted."""
    found = manifest.robustness
    if found is None:
        return []
    return [
        f"value of {measured_model(manifest)} {found.value:.4f}: {manifest.metric} {found.clean:.4f} on clean and "
        f"{found.altered:.4f} on altered validation images, at a robustness of {found.weight:g}"
    ]


def altered_lines(metrics: Mapping[str, Any]) -> list[str]:
    """Return the accuracy on altered validation images with its interval; nothing where metrics.json has none."""
    found = metrics.get("altered") or {}
    if "interval" not in found:  # bundles of earlier versions have none
        return []
    accuracy = accuracy_line(found["accuracy"], found["interval"], found["n"])
    return [f"accuracy on altered images        {accuracy}"]


def measured_model(manifest: Manifest) -> str:
    """Return whose value `manifest.robustness` is: of weights that were changed since, or of the trial."""
    if manifest.adapted is not None:
        return "the trial, before its statistics were adapted,"
    if manifest.stage == "retrained":
        return "the model before" if manifest.changes else "the trial"
    changed = manifest.stage in ("ensemble", "soup") or manifest.interpolated or manifest.finished
    return "this model" if changed else "the trial"


def epoch_line(result: EpochResult, epochs: int) -> str:
    """Return the result of one epoch of a retraining."""
    return (
        f"epoch {result.epoch}/{epochs}: train loss {result.train_loss:.4f}, "
        f"{result.images_per_second:,.0f} images/s, {result.seconds:.1f} s"
    )


def calibration_line(manifest: Manifest) -> str:
    """Return the effect of the temperature on the images it was fitted on, and cross-validated."""
    found = manifest.calibration
    if found is None:
        from hpo.bundle.calibrate import augmented_validation

        reason = augmented_validation(manifest.config) or "there are no predictions on validation images"
        return f"not calibrated: {reason}"
    before, after, apart = found.before, found.after, found.held_out
    line = (
        f"calibration: temperature {found.temperature:.3f}{_shrunk(found)}; {_change(before, after)} "
        f"on the {found.n:,} images it was fitted on"
    )
    if apart is None:
        return line
    return (
        f"{line}; cross-validated ECE {apart.ece:.4f}, NLL {apart.nll:.4f} "
        f"(a perfectly calibrated model has an ECE of about {apart.chance_ece:.4f} on so many images)"
    )


def _shrunk(found: Calibration) -> str:
    """Return how the temperature differs from the one of best fit, in brackets; empty where it does not."""
    if found.best_fit is None or abs(math.log(found.best_fit / found.temperature)) < 0.05:
        return ""
    if found.temperature == 1:
        return f" ({found.best_fit:.3g} fits best, but {found.n:,} images do not show that it is better than 1)"
    return f" ({found.best_fit:.3g} fits best; kept closer to 1, because {found.n:,} images show no more)"


def _trained(result: Retrained) -> str:
    """Return what a retraining did."""
    if (probe := result.manifest.probe) is not None:
        return f"the linear head of a frozen probe, fitted on {probe.images:,} of {result.images:,} images"
    return f"trained on {result.images:,} images for {_epochs(result.manifest.epochs)}"


def retrain_lines(out: Path | str, before: Bundle, result: Retrained) -> list[str]:
    """Return the result of a retraining beside that of its trial; `before` is the bundle that it started from."""
    lines = [
        f"{out}: {_trained(result)}",
        *changes_lines(result.manifest),
        *result.manifest.changes,
    ]
    if before.manifest.data.changes and not result.manifest.data.changes:
        lines.append(before.manifest.data.changes.unapplied_line())
    validation = before.metrics.get("validation")
    if validation:
        accuracy = accuracy_line(validation["accuracy"], validation["interval"], validation["n"])
        lines.append(f"validation accuracy of the trial  {accuracy}{augmented_note(before.manifest)}")
        lines += [*robustness_lines(result.manifest), *altered_lines(before.metrics)]
    if (folds := before.manifest.folds) is not None:
        lines.append(f"that is of its first fold; {mean_line(folds, before.manifest.value_name)}")
    if result.test is None:
        why = "the data has no test part"
        if result.left_out:
            why = f"{copies_line(result.left_out)}, and there are no others"
        return [
            *lines,
            f"nothing has proved this model: {why}; `hpo evaluate` it on images it has not seen",
            _temperature_line(before.manifest, result),
        ]
    test = result.test.report
    lines.append(f"test accuracy of the new model    {accuracy_line(test.accuracy, test.interval, test.n)}")
    if result.left_out:
        lines.append(f"{copies_line(result.left_out)} and were not measured")
    accesses = [result.accesses.line] if result.accesses else []
    return [*lines, _temperature_line(before.manifest, result), *accesses]


def _temperature_line(before: Manifest, result: Retrained) -> str:
    """Return the origin of the new model's temperature and, where there was a test, its effect there."""
    if result.manifest.calibration is None:
        reason = "the temperature of the trial belongs to other data" if before.calibration else "the trial was not"
        return f"not calibrated: {reason}"
    line = (
        f"calibration: temperature {result.manifest.temperature:.3f}, as fitted for the model of the trial: this model "
        "has trained on the validation part, so no images are left to fit its own"
    )
    return f"{line}; on the test part {_calibration_change(result.test)}" if result.test else line


def _change(before: Scores | Reliability, after: Scores | Reliability) -> str:
    """Return `ECE 0.0412 -> 0.0187, NLL 0.21 -> 0.19`, or the plain values where a temperature of 1 changes nothing."""
    if (before.ece, before.nll) == (after.ece, after.nll):
        return f"ECE {before.ece:.4f}, NLL {before.nll:.4f}"
    return f"ECE {before.ece:.4f} -> {after.ece:.4f}, NLL {before.nll:.4f} -> {after.nll:.4f}"


def _calibration_change(measured: ModelMeasurement) -> str:
    before, after = measured.before, measured.after
    worse = "; the probabilities of this model are better without it" if after.nll > before.nll else ""
    return f"{_change(before, after)}{worse}"


def tta_line(averaged: AveragedViews, plain: Report) -> str:
    """Return the gain of the mean over several views."""
    found = averaged.report
    return (
        f"with --tta {averaged.tta}, the mean of {averaged.views} views: "
        f"accuracy {accuracy_line(found.accuracy, found.interval, found.n)}, ECE {averaged.reliability.ece:.4f}\n"
        f"gain {gain(plain.accuracy, found.accuracy, averaged.gained, averaged.lost)}"
    )


def gain(before: float, after: float, gained: int, lost: int) -> str:
    """Return a text such as `+0.41 points (12 images gained, 5 lost)`."""
    images = "1 image" if gained == 1 else f"{gained:,} images"
    return f"{100 * (after - before):+.2f} points ({images} gained, {lost:,} lost)"


def abstention_line(found: Abstention, manifest: Manifest, tta: str) -> str:
    """Return the probability from which the model answers, and the accuracy above it."""
    whose = {"trial": "the trial's validation images", "test": "the test images"}.get(
        found.source, "the validation images"
    )
    apart = ", measured without --tta" if tta != "none" else ""
    return (
        f"answers from a probability of {found.threshold:.4f} on: {found.coverage:.1%} of {whose} reach it, "
        f"and {found.accuracy:.4f} of those are right (with 95 % confidence at least {found.at_least:.4f}{apart}"
        f"{_proof_note(found, manifest)})"
    )


def _proof_note(found: Abstention, manifest: Manifest) -> str:
    """Return the choices that the proof of a threshold allows for."""
    if found.source == "test":
        return f", as the best of {found.best_of:,} models measured there" if found.best_of > 1 else ""
    if manifest.stage in ("ensemble", "soup"):
        of = f" out of the best of {found.best_of:,} sets of trials" if found.best_of > 1 else ""
        return f", each image by members chosen without it{of}"
    if manifest.compared is None:
        return f"; the bundle does not say of how many trials it is the best, so {found.best_of:,} are assumed"
    kind = "models" if manifest.changes else "trials"
    return f", as the best of {found.best_of:,} {kind}" if found.best_of > 1 else ""


def predicted_line(counts: Counts) -> str:
    """Return the counts of images that were predicted, abstained from and unreadable."""
    abstained = f", {counts.abstained:,} of them abstained" if counts.abstained else ""
    unread = f", {counts.unreadable:,} could not be read" if counts.unreadable else ""
    images = "1 image" if counts.predicted == 1 else f"{counts.predicted:,} images"
    sets = f"; a set has {counts.in_sets / counts.predicted:.2f} classes on average" if counts.in_sets else ""
    return f"{images} predicted{abstained}{unread}{sets}"


def joined_lines(out: Path | str, joined: JointModel) -> list[str]:
    """Return the composition of a joint model and its comparisons with the best trial."""
    manifest, held_out = joined.manifest, joined.held_out
    lines = [
        f"{out}: {composition(manifest)}",
        *changes_lines(manifest),
        _comparison_line("validation part, on which it was chosen", joined.validation),
    ]
    if joined.altered is not None:
        lines.append(_comparison_line("the same images, altered, on which it was chosen too", joined.altered))
    if held_out is not None:
        lines.append(_comparison_line("each half of it, chosen on the other half", held_out))
    if manifest.data.folds is not None:
        lines.append(f"of {manifest.data.folds} folds the validation part is the first, and the models are those of it")
    return lines


def composition(manifest: Manifest) -> str:
    """Return the trials of a joint model, with their weights."""
    if manifest.members:
        parts = ", ".join(f"{member.trial} ({member.weight:.3g})" for member in manifest.members)
        return f"ensemble of {len(manifest.members)} trials of study {manifest.study}, by weight: {parts}"
    if manifest.ingredients:
        parts = ", ".join(map(str, manifest.ingredients))
        return f"soup of {len(manifest.ingredients)} trials of study {manifest.study}: {parts}"
    return f"trial {manifest.trial} of study {manifest.study} alone: nothing joined with it is better on validation"


def _comparison_line(where: str, found: JointComparison) -> str:
    change = gain(found.best, found.joined, found.gained, found.lost)
    return f"{where} (n {found.n:,}): best trial {found.metric} {found.best:.4f}, joined {found.joined:.4f}: {change}"


def copies_line(count: int) -> str:
    """Return the line on test images that are in train or validation too."""
    images = "1 test image is a copy" if count == 1 else f"{count:,} test images are copies"
    return f"{images} of images that the model has trained on"


def overlap_lines(data: Path, selection: Selection) -> list[str]:
    """Return the lines on images that took part in making the model, or that this is not known."""
    overlap = selection.overlap
    if overlap.took_part is None:
        return [
            "whether images took part in making this model is not known: the bundle, of an earlier version of hpo, has "
            "no digests of its images; export it again from its study to have them left out"
        ]
    if not overlap.left_out:
        return []
    where = f"the {selection.name} part of {data}" if selection.name else data
    lines = [
        f"{overlap.left_out:,} of {overlap.images:,} images of {where} took part in making this model, as training or "
        f"validation images, and were left out; {overlap.images - overlap.left_out:,} were measured"
    ]
    if overlap.tests and not selection.own:
        are = "is" if overlap.tests == 1 else "are"
        lines.append(f"{overlap.tests:,} of the measured images {are} of the test part of the model's own data")
    return lines


def selection_lines(data: Path, selection: Selection, split: str | None) -> list[str]:
    """Return the lines on the images that a reader of the figures must know; the report's table has the classes."""
    lines = []
    if selection.name is None:
        asked = f", so --split {split} chooses nothing" if split else ""
        which = "its other images are" if selection.overlap.left_out else "all of it is"
        lines.append(f"{data} has no parts and is not the data of the bundle: {which} evaluated{asked}")
    elif selection.own and selection.name != "test":
        lines.append(f"the {selection.name} part took part in making this model: it looks better here than it is")
    if selection.own and not selection.split_is_known:
        lines.append(
            "the bundle, of an earlier version of hpo, cannot tell whether its data are split here as they were"
        )
    if not selection.own or selection.name == "test":
        lines += overlap_lines(data, selection)
    if not selection.own:
        (counts,) = selection.summary.counts.values()
        missing = missing_line(selection.summary.classes, counts)
        lines += [missing] if missing else []
    return [*lines, *selection.summary.remarks()]


def _epochs(count: int) -> str:
    return "1 epoch" if count == 1 else f"{count} epochs"
