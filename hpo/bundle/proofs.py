"""Prove with the predictions of a bundle below which confidence it abstains, and which sets hold the true class."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from hpo.bundle.bundle import Bundle
from hpo.bundle.calibration_images import SOURCES, CalibrationImages, calibration_images, refuse_unproved
from hpo.corruption_family import SEVERITIES
from hpo.errors import UsageError
from hpo.evaluation.calibration import Abstention, abstention_by
from hpo.evaluation.conformal import (
    METHODS,
    CalibratedSets,
    ScoredImages,
    SetMethod,
    SetRule,
    calibrate_sets,
    highest_level,
)


def abstention_of(bundle: Bundle, accuracy: float) -> Abstention:
    """Return the calibrated confidence below which to abstain, so that a share of `accuracy` of the answers is right.

    The bundle's own predictions must prove it with 95 % confidence: see `calibration_images`. Of two proofs the one
    that answers more images is taken. Raises BundleError where there are no such predictions on plain images,
    UsageError for an accuracy out of range or one that no threshold is sure to reach.
    """
    if not 0 < accuracy < 1:
        raise UsageError(f"--accuracy is {accuracy}, but must be above 0 and below 1, which no images can prove")
    known = calibration_images(bundle)
    if not known:
        refuse_unproved(bundle, "--accuracy")
    found = [
        replace(threshold, source=one.source, best_of=one.best_of)
        for one in known
        if (threshold := abstention_by(one.images.top, one.images.right, accuracy, compared=one.compared)) is not None
    ]
    if not found:
        raise UsageError(
            f"--accuracy is {accuracy:g}, but no threshold reaches it with 95 % confidence by "
            f"{_named(bundle, known)}: there are too few of them, or mistakes among the most confident; "
            "give a lower --accuracy"
        )
    return min(found, key=lambda one: one.threshold)


@dataclass(frozen=True)
class SetSource:
    """The images that one threshold of a set was found on."""

    images: CalibrationImages
    found: CalibratedSets

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return {
            "source": self.images.source,
            "best_of": self.images.best_of,
            "images": self.found.originals,
            "rows": len(self.images.images),
            "at_least": self.found.at_least,
        }


@dataclass(frozen=True)
class BundleSets:
    """The prediction sets of a bundle, and what they are proved on."""

    rule: SetRule
    clean: SetSource
    altered: SetSource | None
    """None where the sets are not made to hold for altered images; `without_altered` says why."""
    without_altered: str = ""
    by_class: bool = False

    def worst_severity(self) -> tuple[int, float, float] | None:
        """Return the severity at which the sets hold the true class least often, how often, and over all; or None.

        It is counted on the altered images whose severity is known, all kinds of a severity together.
        """
        if self.altered is None:
            return None
        images = self.altered.images.images
        holds = self.rule.holds(images)
        shares = {step: float(holds[images.severity == step].mean()) for step in SEVERITIES if step in images.severity}
        if not shares:
            return None
        worst = min(shares, key=lambda step: shares[step])
        return worst, shares[worst], float(holds.mean())

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return {
            "level": self.rule.level,
            "method": self.rule.method,
            "by_class": self.by_class,
            "thresholds": self.rule.thresholds.tolist(),
            "clean": self.clean.to_dict(),
            "altered": self.altered.to_dict() if self.altered else None,
            "without_altered": self.without_altered,
        }


@dataclass(frozen=True)
class SetOptions:
    """How prediction sets are made."""

    level: float = 0.95
    """The probability with which a set holds the true class."""
    method: SetMethod = "lac"
    by_class: bool = False
    """Whether the level holds for the images of each class."""
    clean: bool = False
    """Whether the sets hold for images like the calibration images alone, not for altered ones too."""


def sets_of(bundle: Bundle, options: SetOptions, *, test: bool = True) -> BundleSets:
    """Return the sets that hold the true class with a probability of `options.level`, by the bundle's predictions.

    They hold it for images like the clean calibration images and, where the bundle has predictions on altered ones, for
    images like these: a threshold is the larger of the two. `test` is as in `calibration_images`. Raises BundleError
    where there are no such predictions, UsageError for options out of range, and for a level that needs more images.
    """
    _check(options)
    known = calibration_images(bundle, test=test)
    if not known:
        refuse_unproved(bundle, "--sets")
    clean = _best(bundle, known, options)
    if clean is None:
        raise UsageError(_too_few(bundle, known, options))
    rule = SetRule(options.method, options.level, clean.found.thresholds)
    result = partial(BundleSets, clean=clean, by_class=options.by_class)
    if options.clean:
        return result(rule, altered=None, without_altered="as was asked")
    harder = calibration_images(bundle, altered=True, test=test)
    altered = _best(bundle, harder, options)
    if altered is None:
        reason = _too_few(bundle, harder, options) if harder else "the bundle has no predictions on altered images"
        return result(rule, altered=None, without_altered=reason)
    thresholds = np.maximum(rule.thresholds, altered.found.thresholds)
    return result(replace(rule, thresholds=thresholds), altered=altered)


def _check(options: SetOptions) -> None:
    if not 0 < options.level < 1:
        raise UsageError(f"--sets is {options.level}, but must be above 0 and below 1, which no images can prove")
    if options.method not in METHODS:
        raise UsageError(f"the method of sets is {options.method!r}, but must be one of {', '.join(METHODS)}")


def _best(bundle: Bundle, known: Iterable[CalibrationImages], options: SetOptions) -> SetSource | None:
    """Return the source with the smallest sets; None where none has enough images."""
    classes = len(bundle.manifest.classes)
    found = [
        SetSource(one, calibrated)
        for one in known
        if (
            calibrated := calibrate_sets(
                one.images, options.method, options.level,
                classes=classes, compared=one.compared, by_class=options.by_class,
            )
        )
    ]  # fmt: skip
    return min(found, key=lambda one: float(one.found.thresholds.mean()), default=None)


def _too_few(bundle: Bundle, known: Iterable[CalibrationImages], options: SetOptions) -> str:
    """Return the line on a level that needs more images than there are."""
    known = list(known)
    classes = bundle.manifest.classes
    if not options.by_class:
        level = max(highest_level(_originals(one.images), one.compared) for one in known)
        return (
            f"--sets is {options.level:g}, but {_named(bundle, known)} can give at most {_floor(level)}; "
            "give a lower --sets"
        )
    counts = {
        (one.compared, name): _originals(one.images.subset(one.images.labels == label))
        for one in known
        for label, name in enumerate(classes)
    }
    compared, name = min(counts, key=lambda key: highest_level(counts[key], key[0]))
    level = highest_level(counts[compared, name], compared)
    give = f"can give at most {_floor(level)}" if level else "can give none"
    return (
        f"--sets is {options.level:g}, but the {counts[compared, name]:,} images of class {name} {give}; "
        "give a lower --sets, or leave --sets-by-class out"
    )


def _originals(images: ScoredImages) -> int:
    return len(np.unique(images.originals))


def _floor(level: float) -> str:
    """Return a level with three digits, never above it."""
    return f"{np.floor(1000 * level) / 1000:g}"


def _named(bundle: Bundle, known: Iterable[CalibrationImages]) -> str:
    """Return the images of a proof in words, with what it allows for."""
    return " or ".join(f"the {_originals(one.images):,} {SOURCES[one.source]}{best_of(bundle, one)}" for one in known)


def best_of(bundle: Bundle, one: CalibrationImages) -> str:
    """Return the choice that a proof on these images allows for, as ` of the best of 20 trials`; "" for none."""
    if one.best_of == 1:
        return ""
    joint = bundle.manifest.stage in ("ensemble", "soup")
    kind = "models" if one.source == "test" or bundle.manifest.changes else "sets of trials" if joint else "trials"
    return f" of the best of {one.best_of:,} {kind}"
