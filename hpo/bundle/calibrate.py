"""Compute a bundle's temperature, and its threshold for abstaining, from its stored validation predictions."""

from __future__ import annotations

from hpo.bundle.bundle import Bundle
from hpo.bundle.manifest import Calibration, Manifest, Scores
from hpo.bundle.validation import Validation
from hpo.errors import BundleError, UsageError
from hpo.evaluation.calibration import (
    Abstention,
    Probabilities,
    abstention,
    fit_temperature,
    held_out,
    likeliest_temperature,
    probabilities,
    reliability,
)
from hpo.evaluation.metrics import Logits
from hpo.hints import hint
from search_spaces import TrialConfig

ASSUMED = 100
"""Trials that a single model is assumed to be the best of, where its bundle does not say how many there were."""


def calibration_of(validation: Validation, crossed: Logits | None = None) -> Calibration:
    """Fit the temperature to these predictions, and measure its effect on them.

    `crossed`, (n, C), are logits of each image by members that were chosen without it, where more than the temperature
    was chosen by these predictions.
    """
    labels, logits = validation
    # On images that its members were chosen by, an ensemble seems better than it is; a temperature fitted on them would
    # make it overconfident.
    unseen = logits if crossed is None else crossed
    temperature = fit_temperature(labels, unseen)

    def scores(rows: Probabilities) -> Scores:
        found = reliability(labels, rows)
        return Scores(ece=found.ece, chance_ece=found.chance_ece, brier=found.brier, nll=found.nll)

    apart = held_out(labels, unseen)
    return Calibration(
        temperature=temperature,
        fitted_on="validation",
        best_fit=likeliest_temperature(labels, unseen),
        n=len(labels),
        before=scores(probabilities(logits)),
        after=scores(probabilities(logits, temperature)),
        held_out=scores(apart) if apart is not None else None,
    )


def augmented_validation(config: TrialConfig) -> str | None:
    """Return why a trial's validation predictions are not of plain images, in words; None where they are."""
    if not config.validation_augmented:
        return None
    return f"its trial was validated on augmented images (validation_augmented is {config.validation_augmented:g})"


def abstention_of(bundle: Bundle, accuracy: float) -> Abstention:
    """Return the calibrated confidence below which to abstain, so that a share of `accuracy` of the answers is right.

    It is chosen on the bundle's validation predictions, which must prove it with 95 % confidence. The proof allows for
    the number of trials that a single one is the best of, `ASSUMED` where the bundle does not know it. For an ensemble
    or a soup the predictions of each image are those of members that were chosen without it; the trials that they were
    chosen from were found on all images, and the proof allows for the number of such sets. Raises BundleError where
    there are no such predictions on plain images, UsageError for an accuracy out of range or one that no threshold is
    sure to reach.
    """
    if not 0 < accuracy < 1:
        raise UsageError(f"--accuracy is {accuracy}, but must be above 0 and below 1, which no images can prove")
    validation, compared = _proof(bundle), compared_with(bundle.manifest)
    rows = probabilities(validation.logits, bundle.manifest.temperature)
    found = abstention(validation.labels, rows, accuracy, compared=compared)
    if found is None:
        kind = "sets of trials" if bundle.manifest.stage in ("ensemble", "soup") else "trials"
        of = f" of the best of {compared:,} {kind}" if compared > 1 else ""
        raise UsageError(
            f"--accuracy is {accuracy:g}, but no threshold reaches it with 95 % confidence by the {len(rows):,} "
            f"validation images{of}: there are too few of them, or mistakes among the most confident; "
            "give a lower --accuracy"
        )
    return found


def compared_with(manifest: Manifest) -> int:
    """Return the number of models among which the images of the proof chose this one."""
    return manifest.compared if manifest.compared is not None else max(ASSUMED, manifest.trial + 1)


def _proof(bundle: Bundle) -> Validation:
    """Return the predictions that a threshold is proved on; BundleError where there are none."""
    manifest = bundle.manifest
    if manifest.adapted is not None:
        raise BundleError(
            f"{bundle.path} is adapted to unlabelled images, so no predictions prove a threshold; leave --accuracy "
            "out, or give the bundle that it was made from"
        )
    if bundle.validation is None:
        raise BundleError(f"{bundle.path} holds no validation predictions to choose a threshold on; export it again")
    reason = augmented_validation(manifest.config)
    if reason and manifest.calibration is None:
        raise BundleError(f"{bundle.path} has nothing to choose a threshold on: {reason}; leave --accuracy out")
    if manifest.stage not in ("ensemble", "soup"):
        return bundle.validation
    if bundle.crossed is None:
        raise BundleError(
            f"{bundle.path} holds no predictions of members that were chosen without the image, so no threshold can be "
            f"proved; join the trials again: `{joining_command(manifest.study, soup=manifest.stage == 'soup')}`"
        )
    return Validation(bundle.validation.labels, bundle.crossed)


def joining_command(study: str, *, soup: bool, out: str = "FOLDER") -> str:
    """Return the command that joins the trials of a study again, into the folder `out`."""
    words: dict[str, object] = {"soup": True, "data": "DATA"} if soup else {}
    return hint("ensemble", study=study, **words, out=out)
