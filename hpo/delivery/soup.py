"""Several trials of one study as one model: the mean of their weights, chosen greedily on validation images.

Trials that started from the same weights often lie in one valley of the loss, so that the mean of their weights is a
good model too, at the cost of one of them (Wortsman et al. 2022, Model Soups). Where they do not, the greedy choice is
the best trial alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from hpo.bundle.bundle import check_out, write_bundle
from hpo.bundle.calibrate import calibration_of
from hpo.bundle.manifest import Manifest
from hpo.bundle.own_data import reopen_same
from hpo.bundle.validation import Validation
from hpo.data import Dataset, ImageDigests, Progress
from hpo.data.dataset import Part
from hpo.delivery.ensemble import JointModel, chosen_by, comparisons, with_own_figures
from hpo.delivery.ensemble_candidates import EnsembleCandidate, EnsembleCandidates, trials_named
from hpo.delivery.export import export_trial
from hpo.delivery.selection import Chosen, Merit, Rows, cross_checked, greedy_soup, merit, ranked
from hpo.delivery.weight_averages import STATISTICS_IMAGES, Ingredients, WeightAverages
from hpo.errors import BundleError
from hpo.evaluation.altered_part import altered_part
from hpo.evaluation.calibration import Probabilities, probabilities
from hpo.evaluation.metrics import Logits, report

SHAPING = ("backbone", "normalisation", "head_layers", "head_units", "head_activation")
"""Fields in which two configurations must agree for the mean of their weights to be of one architecture."""

OnLine = Callable[[str], None]


def soupable(candidates: EnsembleCandidates) -> EnsembleCandidates:
    """Return the candidates of the best trial's architecture; BundleError for fewer than two."""
    found = candidates.found
    kept = tuple(one for one in found if _architecture(one) == _architecture(found[0]))
    others = [one.trial.number for one in found if one not in kept]
    left_out = candidates.left_out
    if others:
        left_out = (*left_out, f"{trials_named(others)}: another architecture than the best trial's")
    if len(kept) < 2:
        raise BundleError(f"no soup: trial {kept[0].trial.number} is alone in its architecture; {left_out[-1]}")
    return replace(candidates, found=kept, left_out=left_out)


def _architecture(candidate: EnsembleCandidate) -> tuple[object, ...]:
    config, steps = candidate.manifest.config, candidate.manifest.preprocessing
    return (*(getattr(config, name) for name in SHAPING), steps.mean, steps.std)


def open_images(candidates: EnsembleCandidates, data: Path, cache: Path, progress: Progress | None = None) -> Dataset:
    """Open `data`, split as it was for the trials; DataError where it holds other images than theirs."""
    manifest = candidates.found[0].manifest
    maker, way_out = f"study {candidates.study.study_name!r}", "give the same data"
    return reopen_same(manifest, data, cache, progress, maker=maker, way_out=way_out)


def soup(
    candidates: EnsembleCandidates,
    dataset: Dataset,
    out: Path,
    *,
    device: str = "cpu",
    cache: Path | None = None,
    force: bool = False,
    on_line: OnLine,
) -> JointModel:
    """Write the greedy soup of `soupable` candidates to `out`, or the best trial alone where no mean is better.

    The result is a bundle of one model. `on_line` gets a line for each mean that is tried. Where altered images count
    in the study, they are in the folder `cache`. Raises BundleError where a checkpoint has gone meanwhile, or `out` may
    not be written.
    """
    check_out(out, force=force)
    search = SoupSearch(candidates, dataset, device, on_line, altered=_altered_images(candidates, dataset, cache))
    return write_soup(search, *search.choose(), out, force=force)


def _altered_images(candidates: EnsembleCandidates, dataset: Dataset, cache: Path | None) -> Part | None:
    """Return the altered part of the study; None where clean images alone count."""
    if not candidates.spec.robustness:
        return None
    if cache is None:
        raise ValueError("altered images count in the study, but there is no cache folder for them")
    return altered_part(dataset.val, cache, train=len(dataset.train))


class SoupSearch:
    """A choice of ingredients by any of the validation images; the logits of each mean are cached."""

    def __init__(
        self,
        candidates: EnsembleCandidates,
        dataset: Dataset,
        device: str,
        on_line: OnLine,
        *,
        altered: Part | None = None,
        statistics_images: int = STATISTICS_IMAGES,
    ) -> None:
        self.candidates, self.dataset = candidates, dataset
        self._stored = [candidate.logits for candidate in candidates.found]
        manifest = candidates.found[0].manifest
        report_mean = partial(self._report_mean, on_line)
        self.averages = WeightAverages(
            manifest, self._weights, dataset, device, on_predicted=report_mean, altered=altered,
            statistics_images=statistics_images,
        )  # fmt: skip

    def choose(self, rows: Rows | None = None, first: int | None = None) -> tuple[int, Ingredients]:
        """Return the best single candidate and the soup, by the validation images `rows`, (n,) bool, or by all.

        The soup begins with the candidate `first`; None stands for the best one.
        """
        labels = self.candidates.labels
        some, metric = chosen_by(self.candidates, np.ones(len(labels), dtype=np.bool_) if rows is None else rows)
        seen = labels[self.candidates.rows[some]]
        singles = np.stack([probabilities(logits) for logits in self._stored])
        order = ranked(seen, singles[:, some], metric)
        if first is not None:
            order = [first, *(one for one in order if one != first)]

        def merit_of(ingredients: Ingredients) -> Merit:
            return merit(seen, self.probabilities(ingredients)[some], metric)

        return order[0], greedy_soup(order, merit_of)

    def probabilities(self, ingredients: Ingredients) -> Probabilities:
        """Return (n + m, C) probabilities of the images of `EnsembleCandidates.rows`, not calibrated."""
        return probabilities(self.logits(ingredients))

    def logits(self, ingredients: Ingredients) -> Logits:
        """Return (n + m, C) float32 of the same images; for a single trial those that the search has stored."""
        return self._stored[ingredients[0]] if len(ingredients) == 1 else self.averages.logits(ingredients)

    def _weights(self, ingredient: int) -> bytes:
        return self.candidates.weights(self.candidates.found[ingredient])

    def _report_mean(self, on_line: OnLine, ingredients: Ingredients, logits: Logits) -> None:
        numbers = [self.candidates.found[ingredient].trial.number for ingredient in ingredients]
        labels, metric = self.candidates.labels, self.candidates.metric
        value, _ = merit(labels[self.candidates.rows], probabilities(logits), metric)
        name = f"validation {metric}" if isinstance(metric, str) else f"value, of {metric.metric},"
        on_line(f"mean of {trials_named(numbers)}: {name} {value:.4f}")


def write_soup(search: SoupSearch, best: int, chosen: Ingredients, out: Path, *, force: bool = False) -> JointModel:
    """Write the soup of the `chosen` candidates to `out`, and measure it beside the candidate that is best alone."""
    candidates = search.candidates
    labels, metric, n = candidates.labels, candidates.spec.metric, len(candidates.labels)

    def choose_by(rows: Rows) -> Chosen:
        alone, together = search.choose(rows)
        return Chosen(search.probabilities((alone,)), search.probabilities(together))

    validation = Validation(labels, search.logits(chosen)[:n])
    clean, altered = comparisons(candidates, search.probabilities((best,)), search.probabilities(chosen))
    checked = cross_checked(labels, metric, choose_by, candidates.rows)
    extras = candidates.extras(checked, ImageDigests.of(search.dataset))
    result = JointModel(
        manifest=with_own_figures(_manifest(candidates, best, chosen, validation, extras.crossed), clean, altered),
        best=candidates.found[best].trial.number,
        validation=clean,
        held_out=checked.comparison if checked else None,
        altered=altered,
    )
    if len(chosen) == 1:
        export_trial(candidates.study, candidates.found[best].trial, candidates.store, out, force=force)
    else:
        metrics = result.metrics(report(*validation, result.manifest.classes))
        model = search.averages.weights(chosen)
        write_bundle(out, result.manifest, model, metrics, validation=validation, extras=extras, force=force)
    return result


def _manifest(
    candidates: EnsembleCandidates, best: int, chosen: Ingredients, validation: Validation, crossed: Logits | None
) -> Manifest:
    """Return the manifest of the soup, or that of the trial that it consists of, where there is only one."""
    found = candidates.found
    base = found[best].manifest
    if len(chosen) == 1:
        return base.model_copy(update={"calibration": calibration_of(validation)})
    calibration = calibration_of(validation, crossed)
    ingredients = tuple(found[ingredient].trial.number for ingredient in chosen)
    changes = {"ingredients": ingredients, "calibration": calibration, "compared": candidates.compared}
    return base.model_copy(update={"stage": "soup", **changes})
