"""The mean of the weights of several models of one architecture, made whole with statistics of its own.

Several trials of one study as one model: the mean of their weights, as good as greed finds it on validation images.

Trials that started from the same weights often lie in one valley of the loss, so that the mean of their weights is a
model as well, and as cheap as one of them (Wortsman et al. 2022, Model Soups). Where they do not, greed keeps the best
trial alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeGuard

import numpy as np
import safetensors.torch
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from hpo.bundle.bundle import Extras, check_out, write_bundle
from hpo.bundle.calibrate import calibration_of
from hpo.bundle.manifest import Manifest
from hpo.bundle.model import (
    BATCH_SIZE,
)
from hpo.bundle.own_data import reopen_same
from hpo.bundle.validation import Validation
from hpo.data import Dataset, ImageDigests, Progress
from hpo.delivery.ensemble import Joined
from hpo.delivery.ensemble_candidates import EnsembleCandidate, EnsembleCandidates, trials_named
from hpo.delivery.export import export_trial
from hpo.delivery.selection import Chosen, Merit, Rows, compare, cross_checked, greedy_soup, merit, ranked
from hpo.errors import BundleError
from hpo.evaluation.calibration import Probabilities, probabilities
from hpo.evaluation.metrics import Logits, report
from hpo.models.built_model import build_model
from hpo.models.compute_format import ComputeFormat, Normaliser
from hpo.models.inference import Predictor
from hpo.training.batches import epoch_batches

STATISTICS_IMAGES = 4096
"""Training images, at most, over which the statistics of BatchNorm are taken."""

VARIANCE = "running_var"

Tensors = Mapping[str, torch.Tensor]

Ingredients = tuple[int, ...]

WeightsOf = Callable[[int], bytes]

Tried = Callable[[Ingredients, Logits], None]


class Averages:
    """Means of the weights of models of the architecture that `manifest` names, of which one is in memory at a time.

    `weights_of` gives the safetensors of an ingredient, each time it is needed.
    """

    def __init__(
        self, manifest: Manifest, weights_of: WeightsOf, dataset: Dataset, device: str, tried: Tried | None = None
    ) -> None:
        self._manifest = manifest
        self._weights_of = weights_of
        self._dataset = dataset
        self._device = device
        self._tried: Tried = tried or (lambda ingredients, logits: None)
        self._found: dict[Ingredients, Logits] = {}

    def logits(self, ingredients: Ingredients) -> Logits:
        """(n, C) float32 on the validation part, computed once for each set of ingredients."""
        key = tuple(sorted(ingredients))
        if key not in self._found:
            self._found[key] = self._predict(self._network(key))
            self._tried(key, self._found[key])
        return self._found[key]

    def weights(self, ingredients: Ingredients) -> bytes:
        """safetensors of the mean."""
        state = self._network(tuple(sorted(ingredients))).state_dict()
        return safetensors.torch.save({name: tensor.cpu().contiguous() for name, tensor in state.items()})

    def _network(self, ingredients: Ingredients) -> nn.Module:
        """In evaluation mode, with the mean of the weights.

        The mean of BatchNorm's statistics is not the statistics of the mean: those that training has moved apart are
        taken anew over training images. Frozen ones are the same in all ingredients and stay.
        """
        found = mean_of(safetensors.torch.load(self._weights_of(ingredient)) for ingredient in ingredients)
        network = build_model(self._manifest.config, len(self._manifest.classes), initialise=False).model
        network.load_state_dict(found.tensors)
        network.eval()
        moved: list[_BatchNorm] = [m for name, m in network.named_modules() if _is_moved(name, m, found)]
        if moved:
            self._take_statistics(network, moved)
        return network

    def _take_statistics(self, network: nn.Module, modules: Sequence[_BatchNorm]) -> None:
        """The mean over batches of the statistics of each, with nothing but `modules` in training mode."""
        device = torch.device(self._device)
        compute_format, steps = ComputeFormat("fp32"), self._manifest.preprocessing
        normalise = Normaliser(steps.mean, steps.std, device, compute_format)
        compute_format.place(network, device)
        for module in modules:
            module.reset_running_stats()
            module.momentum = None
            module.train()
        rows = np.random.default_rng(0).permutation(len(self._dataset.train))[:STATISTICS_IMAGES]
        with torch.no_grad():
            for some in epoch_batches(rows, BATCH_SIZE):
                images = self._dataset.train.batch(some)
                network(normalise(torch.from_numpy(images).to(device)))
        network.eval()

    def _predict(self, network: nn.Module) -> Logits:
        steps, part = self._manifest.preprocessing, self._dataset.val
        images = map(part.batch, epoch_batches(np.arange(len(part)), BATCH_SIZE))
        return Predictor(network, mean=steps.mean, std=steps.std, device=self._device).logits(images)


class Mean(NamedTuple):
    """The mean of several models' weights."""

    tensors: Tensors
    moved: frozenset[str]
    """Running variances that differ among the models."""


def mean_of(models: Iterable[Tensors]) -> Mean:
    """The mean of each tensor, taken model by model; of whole numbers (batches that were seen) the first model's."""
    rest = iter(models)
    first = next(rest)
    total = {name: tensor.clone() for name, tensor in first.items()}
    variances = {name: tensor.clone() for name, tensor in first.items() if name.endswith(VARIANCE)}
    del first
    moved: set[str] = set()
    count = 1
    for model in rest:
        count += 1
        moved.update(name for name, tensor in variances.items() if not torch.equal(tensor, model[name]))
        for name, tensor in _floating(total):
            tensor.add_(model[name])
    for _, tensor in _floating(total):
        tensor.div_(count)
    return Mean(total, frozenset(moved))


def _floating(tensors: Tensors) -> Iterator[tuple[str, torch.Tensor]]:
    return ((name, tensor) for name, tensor in tensors.items() if tensor.is_floating_point())


def _is_moved(name: str, module: nn.Module, mean: Mean) -> TypeGuard[_BatchNorm]:
    """Whether the module keeps running statistics that differ among the models."""
    return isinstance(module, _BatchNorm) and f"{name}.{VARIANCE}" in mean.moved


SHAPING = ("backbone", "normalisation", "head_layers", "head_units", "head_activation")
"""What two configurations must agree in for the mean of their weights to be of one architecture."""

Heard = Callable[[str], None]


def soupable(candidates: EnsembleCandidates) -> EnsembleCandidates:
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


def open_images(candidates: EnsembleCandidates, data: Path, cache: Path, progress: Progress | None = None) -> Dataset:
    """`data`, split as it was for the trials; DataError where it holds other images than theirs."""
    manifest = candidates.found[0].manifest
    maker, way_out = f"study {candidates.study.study_name!r}", "give the same data"
    return reopen_same(manifest, data, cache, progress, maker=maker, way_out=way_out)


def soup(
    candidates: EnsembleCandidates,
    dataset: Dataset,
    out: Path,
    *,
    device: str = "cpu",
    force: bool = False,
    heard: Heard,
) -> Joined:
    """Write the greedy soup of `soupable` candidates to `out`, or the best trial alone where no mean is better.

    The result is a bundle of one model. `heard` gets a line for each mean that was tried. Raises BundleError where a
    checkpoint has gone meanwhile, or `out` may not be written.
    """
    check_out(out, force=force)
    kitchen = SoupSearch(candidates, dataset, device, heard)
    return write_soup(kitchen, *kitchen.choose(), out, force=force)


def write_soup(kitchen: SoupSearch, best: int, chosen: Ingredients, out: Path, *, force: bool = False) -> Joined:
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
        extras = Extras(crossed, ImageDigests.of(kitchen.dataset))
        write_bundle(out, joined.manifest, model, metrics, validation=validation, extras=extras, force=force)
    return joined


class SoupSearch:
    """Chooses ingredients by any of the validation images; what was tasted once is remembered."""

    def __init__(self, candidates: EnsembleCandidates, dataset: Dataset, device: str, heard: Heard) -> None:
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
    candidates: EnsembleCandidates, best: int, chosen: Ingredients, validation: Validation, crossed: Logits | None
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


def _architecture(candidate: EnsembleCandidate) -> tuple[object, ...]:
    config, steps = candidate.manifest.config, candidate.manifest.preprocessing
    return (*(getattr(config, name) for name in SHAPING), steps.mean, steps.std)
