"""Several trials of one study as one model: the mean of their weights, as good as greed finds it on validation images.

Trials that started from the same weights often lie in one valley of the loss, so that the mean of their weights is a
model as well, and as cheap as one of them (Wortsman et al. 2022, Model Soups). Where they do not, greed keeps the best
trial alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from hpo.data import Dataset, KnownImages, Progress
from hpo.delivery.averages import Averages, Ingredients
from hpo.delivery.bundle import Extras, check_out, write_bundle
from hpo.delivery.calibrate import calibration_of
from hpo.delivery.candidates import Candidate, Candidates, trials_named
from hpo.delivery.evaluate import reopen_same
from hpo.delivery.export import export_trial
from hpo.delivery.joined import Joined
from hpo.delivery.manifest import Manifest
from hpo.delivery.model import Logits
from hpo.delivery.selection import Chosen, Merit, Rows, compare, cross_checked, greedy_soup, merit, ranked
from hpo.delivery.validation import Validation
from hpo.errors import BundleError
from hpo.evaluation.calibration import Probabilities, probabilities
from hpo.evaluation.metrics import report

SHAPING = ("backbone", "normalisation", "head_layers", "head_units", "head_activation")
"""What two configurations must agree in for the mean of their weights to be of one architecture."""

Heard = Callable[[str], None]


def soupable(candidates: Candidates) -> Candidates:
    """Those of the best trial's architecture; BundleError for fewer than two."""
    found = candidates.found
    kept = tuple(one for one in found if _architecture(one) == _architecture(found[0]))
    others = [one.trial.number for one in found if one not in kept]
    left_out = candidates.left_out
    if others:
        left_out = (*left_out, f"{trials_named(others)}: another architecture than the best trial's")
    if len(kept) < 2:
        raise BundleError(f"no soup: trial {kept[0].trial.number} is alone in its architecture; {left_out[-1]}")
    return replace(candidates, found=kept, left_out=left_out)


def open_images(candidates: Candidates, data: Path, cache: Path, progress: Progress | None = None) -> Dataset:
    """`data`, split as it was for the trials; DataError where it holds other images than theirs."""
    manifest = candidates.found[0].manifest
    maker, way_out = f"study {candidates.study.study_name!r}", "give the same data"
    return reopen_same(manifest, data, cache, progress, maker=maker, way_out=way_out)


def soup(
    candidates: Candidates, dataset: Dataset, out: Path, *, device: str = "cpu", force: bool = False, heard: Heard
) -> Joined:
    """Write the greedy soup of `soupable` candidates to `out`, or the best trial alone where no mean is better.

    The result is a bundle of one model. `heard` gets a line for each mean that was tried. Raises BundleError where a
    checkpoint has gone meanwhile, or `out` may not be written.
    """
    check_out(out, force=force)
    kitchen = Kitchen(candidates, dataset, device, heard)
    return serve(kitchen, *kitchen.choose(), out, force=force)


def serve(kitchen: Kitchen, best: int, chosen: Ingredients, out: Path, *, force: bool = False) -> Joined:
    """Write the soup of the `chosen` candidates to `out`, and measure it beside the candidate that is best alone."""
    candidates = kitchen.candidates
    labels, metric = candidates.labels, candidates.spec.metric

    def by_half(rows: Rows) -> Chosen:
        alone, together = kitchen.choose(rows)
        return Chosen(kitchen.probabilities((alone,)), kitchen.probabilities(together))

    validation = Validation(labels, kitchen.logits(chosen))
    checked = cross_checked(labels, metric, by_half)
    crossed = checked.logits if checked else None
    joined = Joined(
        manifest=_manifest(candidates, best, chosen, validation, crossed),
        best=candidates.found[best].trial.number,
        validation=compare(labels, kitchen.probabilities((best,)), kitchen.probabilities(chosen), metric),
        held_out=checked.comparison if checked else None,
    )
    if len(chosen) == 1:
        export_trial(candidates.study, candidates.found[best].trial, candidates.store, out, force=force)
    else:
        metrics = joined.metrics(report(*validation, joined.manifest.classes))
        model = kitchen.averages.weights(chosen)
        extras = Extras(crossed, KnownImages.of(kitchen.dataset))
        write_bundle(out, joined.manifest, model, metrics, validation=validation, extras=extras, force=force)
    return joined


class Kitchen:
    """Chooses ingredients by any of the validation images; what was tasted once is remembered."""

    def __init__(self, candidates: Candidates, dataset: Dataset, device: str, heard: Heard) -> None:
        self.candidates, self.dataset = candidates, dataset
        self._stored = [candidate.validation.logits for candidate in candidates.found]
        manifest = candidates.found[0].manifest
        self.averages = Averages(manifest, self._weights, dataset, device, tried=partial(self._say, heard))

    def choose(self, rows: Rows | None = None) -> tuple[int, Ingredients]:
        """The best single candidate and the soup, by the validation images `rows`, (n,) bool, or by all."""
        labels, metric = self.candidates.labels, self.candidates.spec.metric
        seen = np.ones(len(labels), dtype=np.bool_) if rows is None else rows
        singles = np.stack([probabilities(logits) for logits in self._stored])
        order = ranked(labels[seen], singles[:, seen], metric)

        def merit_of(ingredients: Ingredients) -> Merit:
            return merit(labels[seen], self.probabilities(ingredients)[seen], metric)

        return order[0], greedy_soup(order, merit_of)

    def probabilities(self, ingredients: Ingredients) -> Probabilities:
        """(n, C), not calibrated."""
        return probabilities(self.logits(ingredients))

    def logits(self, ingredients: Ingredients) -> Logits:
        """(n, C) float32 on the validation part; of a single trial those that the search has stored."""
        return self._stored[ingredients[0]] if len(ingredients) == 1 else self.averages.logits(ingredients)

    def _weights(self, ingredient: int) -> bytes:
        return self.candidates.weights(self.candidates.found[ingredient])

    def _say(self, heard: Heard, ingredients: Ingredients, logits: Logits) -> None:
        numbers = [self.candidates.found[ingredient].trial.number for ingredient in ingredients]
        metric = self.candidates.spec.metric
        value, _ = merit(self.candidates.labels, probabilities(logits), metric)
        heard(f"mean of {trials_named(numbers)}: validation {metric} {value:.4f}")


def _manifest(
    candidates: Candidates, best: int, chosen: Ingredients, validation: Validation, crossed: Logits | None
) -> Manifest:
    """Of the soup; of the one trial that it consists of, where there is only one."""
    found = candidates.found
    base = found[best].manifest
    if len(chosen) == 1:
        return base.model_copy(update={"calibration": calibration_of(validation)})
    calibration = calibration_of(validation, crossed)
    ingredients = tuple(found[ingredient].trial.number for ingredient in chosen)
    changes = {"ingredients": ingredients, "calibration": calibration, "compared": candidates.compared}
    return base.model_copy(update={"stage": "soup", **changes})


def _architecture(candidate: Candidate) -> tuple[object, ...]:
    config, steps = candidate.manifest.config, candidate.manifest.preprocessing
    return (*(getattr(config, name) for name in SHAPING), steps.mean, steps.std)
