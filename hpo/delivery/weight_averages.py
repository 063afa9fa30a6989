"""Averages of the weights of several models of one architecture, with BatchNorm statistics of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeGuard

import numpy as np
import safetensors.torch
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from hpo.augmentation.background import with_background
from hpo.bundle.manifest import Manifest
from hpo.bundle.model import BATCH_SIZE, Tensors
from hpo.data import Dataset
from hpo.data.dataset import Part
from hpo.delivery.validation_images import network_with, predict_parts
from hpo.evaluation.metrics import Logits
from hpo.models.compute_format import ComputeFormat, Normaliser
from hpo.training.batches import epoch_batches

STATISTICS_IMAGES = 4096
"""Training images, at most, over which the statistics of BatchNorm are computed."""

VARIANCE = "running_var"

Ingredients = tuple[int, ...]
"""Numbers of the models that are averaged."""

WeightsOf = Callable[[int], bytes]

OnPredicted = Callable[[Ingredients, Logits], None]


class WeightAverages:
    """Averages of models of the architecture that `manifest` names, with one model in memory at a time.

    `weights_of` gives the safetensors of an ingredient each time it is needed; `on_predicted` is called with each new
    average and its logits on the validation part, which those on the `altered` part follow, where there is one.
    """

    def __init__(
        self,
        manifest: Manifest,
        weights_of: WeightsOf,
        dataset: Dataset,
        device: str,
        on_predicted: OnPredicted = lambda ingredients, logits: None,
        *,
        altered: Part | None = None,
        statistics_images: int = STATISTICS_IMAGES,
    ) -> None:
        self._manifest = manifest
        self._weights_of = weights_of
        self._dataset = dataset
        self._device = device
        self._parts = (dataset.val,) if altered is None else (dataset.val, altered)
        self._on_predicted = on_predicted
        self._statistics_images = statistics_images
        self._logits: dict[Ingredients, Logits] = {}

    def logits(self, ingredients: Ingredients) -> Logits:
        """Return (n + m, C) float32 on the validation part and the altered one, once for each set of ingredients."""
        key = tuple(sorted(ingredients))
        if key not in self._logits:
            self._logits[key] = self._predict(self._network(key))
            self._on_predicted(key, self._logits[key])
        return self._logits[key]

    def weights(self, ingredients: Ingredients) -> bytes:
        """Return the safetensors of the average."""
        state = self._network(tuple(sorted(ingredients))).state_dict()
        return safetensors.torch.save({name: tensor.cpu().contiguous() for name, tensor in state.items()})

    def _network(self, ingredients: Ingredients) -> nn.Module:
        """Return the network with the average of the weights, in evaluation mode."""
        found = mean_of_weights(safetensors.torch.load(self._weights_of(ingredient)) for ingredient in ingredients)
        network = network_with(self._manifest, found.tensors)
        network.eval()
        # The mean of BatchNorm's statistics is not the statistics of the mean: those that training has moved apart are
        # computed anew over training images. Frozen ones are the same in all ingredients and stay.
        moved: list[_BatchNorm] = [m for name, m in network.named_modules() if _is_moved(name, m, found)]
        if moved:
            self._compute_statistics(network, moved)
        return network

    def _compute_statistics(self, network: nn.Module, modules: Sequence[_BatchNorm]) -> None:
        """Set the statistics of `modules` to the mean over batches; only they are in training mode for it."""
        device = torch.device(self._device)
        compute_format, steps = ComputeFormat("fp32"), self._manifest.preprocessing
        normalise = Normaliser(steps.mean, steps.std, device, compute_format)
        compute_format.place(network, device)
        for module in modules:
            module.reset_running_stats()
            module.momentum = None
            module.train()
        rows = np.random.default_rng(0).permutation(len(self._dataset.train))[: self._statistics_images]
        with torch.no_grad():
            for some in epoch_batches(rows, BATCH_SIZE):
                images = with_background(self._dataset.train.batch(some), steps.background)
                network(normalise(torch.from_numpy(images).to(device)))
        network.eval()

    def _predict(self, network: nn.Module) -> Logits:
        return predict_parts(network, self._manifest.preprocessing, self._device, self._parts)


class MeanWeights(NamedTuple):
    """The mean of several models' weights."""

    tensors: Tensors
    moved: frozenset[str]
    """Running variances that differ among the models."""


def mean_of_weights(models: Iterable[Tensors]) -> MeanWeights:
    """Return the mean of each floating tensor, model by model, and the first model's integers (counts of batches)."""
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
    return MeanWeights(total, frozenset(moved))


def _floating(tensors: Tensors) -> Iterator[tuple[str, torch.Tensor]]:
    return ((name, tensor) for name, tensor in tensors.items() if tensor.is_floating_point())


def _is_moved(name: str, module: nn.Module, mean: MeanWeights) -> TypeGuard[_BatchNorm]:
    """Whether the module keeps running statistics that differ among the models."""
    return isinstance(module, _BatchNorm) and f"{name}.{VARIANCE}" in mean.moved
