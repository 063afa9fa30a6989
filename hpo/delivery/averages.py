"""The mean of the weights of several models of one architecture, made whole with statistics of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeGuard

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from hpo.data import Dataset, Images, Part
from hpo.delivery.manifest import Manifest
from hpo.delivery.model import BATCH_SIZE, Logits
from hpo.training.inference import predict_logits
from hpo.training.model import build_model
from hpo.training.normalise import Normaliser
from hpo.training.numerics import NumberFormat

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
        number_format, steps = NumberFormat("fp32"), self._manifest.preprocessing
        normalise = Normaliser(steps.mean, steps.std, device, number_format)
        number_format.placed(network, device)
        for module in modules:
            module.reset_running_stats()
            module.momentum = None
            module.train()
        rows = np.random.default_rng(0).permutation(len(self._dataset.train))[:STATISTICS_IMAGES]
        with torch.no_grad():
            for images in _batches(self._dataset.train, rows):
                network(normalise(torch.from_numpy(images).to(device)))
        network.eval()

    def _predict(self, network: nn.Module) -> Logits:
        steps, part = self._manifest.preprocessing, self._dataset.val
        images = _batches(part, np.arange(len(part)))
        return predict_logits(network, images, mean=steps.mean, std=steps.std, device=self._device)


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


def _batches(part: Part, rows: npt.NDArray[np.int64]) -> Iterator[Images]:
    """The images of `rows`, in batches whose sizes differ by one at most."""
    for some in np.array_split(rows, max(1, math.ceil(len(rows) / BATCH_SIZE))):
        yield part.batch(some)
