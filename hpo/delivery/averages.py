"""The mean of the weights of several models of one architecture, made whole with statistics of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeGuard

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

Tensors = Mapping[str, torch.Tensor]
Ingredients = tuple[int, ...]
Tried = Callable[[Ingredients, Logits], None]


class Averages:
    """Means of the weights of k models, each a safetensors of the architecture that `manifest` names."""

    def __init__(
        self, manifest: Manifest, models: Sequence[bytes], dataset: Dataset, device: str, tried: Tried | None = None
    ) -> None:
        self._manifest = manifest
        self._models: list[Tensors] = [safetensors.torch.load(model) for model in models]
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
        chosen = [self._models[ingredient] for ingredient in ingredients]
        network = build_model(self._manifest.config, len(self._manifest.classes), initialise=False).model
        network.load_state_dict(mean_of(chosen))
        network.eval()
        moved: list[_BatchNorm] = [m for name, m in network.named_modules() if _is_moved(name, m, chosen)]
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


def mean_of(models: Sequence[Tensors]) -> dict[str, torch.Tensor]:
    """The mean of each tensor; of whole numbers (how many batches were seen) the first model's."""
    return {
        name: torch.stack([model[name] for model in models]).mean(0) if first.is_floating_point() else first
        for name, first in models[0].items()
    }


def _is_moved(name: str, module: nn.Module, models: Sequence[Tensors]) -> TypeGuard[_BatchNorm]:
    """Whether the module keeps running statistics that differ among the models."""
    key = f"{name}.running_var"
    if not isinstance(module, _BatchNorm) or key not in models[0]:
        return False
    return any(not torch.equal(models[0][key], model[key]) for model in models[1:])


def _batches(part: Part, rows: npt.NDArray[np.int64]) -> Iterator[Images]:
    """The images of `rows`, in batches whose sizes differ by one at most."""
    for some in np.array_split(rows, max(1, math.ceil(len(rows) / BATCH_SIZE))):
        yield part.batch(some)
