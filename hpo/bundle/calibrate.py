"""Compute a bundle's temperature from its stored validation predictions, and say what these can be used for."""

from __future__ import annotations

from hpo.bundle.manifest import Calibration, Manifest, Scores
from hpo.bundle.validation import Validation
from hpo.evaluation.calibration import (
    Probabilities,
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


def compared_with(manifest: Manifest) -> int:
    """Return the number of models among which the images of the proof chose this one."""
    return manifest.compared if manifest.compared is not None else max(ASSUMED, manifest.trial + 1)


def joining_command(study: str, *, soup: bool, out: str = "FOLDER") -> str:
    """Return the command that joins the trials of a study again, into the folder `out`."""
    words: dict[str, object] = {"soup": True, "data": "DATA"} if soup else {}
    return hint("ensemble", study=study, **words, out=out)
