"""From stored validation predictions to the temperature of a bundle, and to the threshold below which it abstains."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpo.delivery.manifest import Calibration, Scores
from hpo.errors import BundleError, UsageError
from hpo.evaluation.calibration import (
    Abstention,
    Probabilities,
    abstention,
    fit_temperature,
    held_out,
    probabilities,
    reliability,
)
from search_spaces import TrialConfig

if TYPE_CHECKING:
    from hpo.delivery.bundle import Bundle
    from hpo.delivery.validation import Validation


def calibration_of(validation: Validation, apart: Probabilities | None = None) -> Calibration:
    """The temperature that fits these predictions best, and what it does to them.

    `apart`, (n, C), are calibrated probabilities of each image by what was chosen and fitted without it, where more
    than the temperature was chosen by these predictions.
    """
    labels, logits = validation
    temperature = fit_temperature(labels, logits)

    def scores(rows: Probabilities) -> Scores:
        found = reliability(labels, rows)
        return Scores(ece=found.ece, chance_ece=found.chance_ece, brier=found.brier, nll=found.nll)

    cross_validated = held_out(labels, logits) if apart is None else apart
    return Calibration(
        temperature=temperature,
        fitted_on="validation",
        n=len(labels),
        before=scores(probabilities(logits)),
        after=scores(probabilities(logits, temperature)),
        held_out=scores(cross_validated) if cross_validated is not None else None,
    )


def altered_validation(config: TrialConfig) -> str | None:
    """Why a trial's validation predictions say nothing about plain images, in words; None where they do."""
    if not config.validation_augmented:
        return None
    return f"its trial was validated on augmented images (validation_augmented is {config.validation_augmented:g})"


def abstention_of(bundle: Bundle, accuracy: float) -> Abstention:
    """Below which calibrated confidence to abstain, so that the answers are right in `accuracy` of the cases.

    Chosen on the bundle's validation predictions, which must prove it with 95 % confidence. Raises BundleError where it
    holds none on plain images, UsageError for an accuracy that is none or that no threshold is sure to reach.
    """
    if not 0 < accuracy < 1:
        raise UsageError(f"--accuracy is {accuracy}, but must be above 0 and below 1, which no images can prove")
    manifest = bundle.manifest
    if bundle.validation is None:
        raise BundleError(f"{bundle.path} holds no validation predictions to choose a threshold on; export it again")
    reason = altered_validation(manifest.config)
    if reason and manifest.calibration is None:
        raise BundleError(f"{bundle.path} has nothing to choose a threshold on: {reason}; leave --accuracy out")
    labels, logits = bundle.validation
    found = abstention(labels, probabilities(logits, manifest.temperature), accuracy)
    if found is None:
        raise UsageError(
            f"--accuracy is {accuracy:g}, but no threshold reaches it with 95 % confidence by the {len(labels):,} "
            "validation images: too few, or mistakes among the most confident; ask for less"
        )
    return found
