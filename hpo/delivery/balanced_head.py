"""The last layer of a trained network, changed once more without training the network again.

Two ways, both on the features that enter the layer, which are computed once:

- it is trained again on the training images as they are, without augmentation, each class with the same weight where
  the metric is a mean over classes (Kang et al. 2020, Decoupling representation and classifier, arXiv 1910.09217), and
  on altered ones where these count in the value (last-layer retraining: Kirichenko et al. 2023, arXiv 2204.02937). A
  penalty keeps it near the layer that training has left;
- its bias is shifted by a share τ of the logarithms of the class frequencies (logit adjustment: Menon et al. 2021,
  arXiv 2007.07314, equation 9), so that rare classes are named more often.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from hpo.bundle.manifest import HeadChange, Manifest
from hpo.bundle.model import Tensors
from hpo.data.dataset import Labels, Part
from hpo.delivery.validation_images import network_with, predict_parts
from hpo.evaluation.altered_part import altered_part
from hpo.evaluation.metrics import Logits
from hpo.models.classifier import Classifier

MOST_IMAGES = 8192
"""Training images whose features the layer is trained on, at most."""

PENALTIES = (0.1, 0.01, 0.001, 0.0001)
"""Penalties that are tried, relative to the mean square of a feature vector."""

SHARES_OF_PRIORS = (0.25, 0.5, 1.0)

UNEVEN = 1.2
"""Classes are uneven if the largest has this many times the images of the smallest."""

STEPS = 100
"""Iterations of L-BFGS, at most."""

Rows32 = npt.NDArray[np.float32]


class Layer(NamedTuple):
    """A linear layer: weight (C, F) and bias (C,)."""

    weight: torch.Tensor
    bias: torch.Tensor

    def logits(self, features: Rows32) -> Logits:
        """Return (n, C) float32 of features (n, F)."""
        found: Logits = (torch.from_numpy(features) @ self.weight.T + self.bias).numpy()
        return found


@dataclass(frozen=True)
class HeadImages:
    """The images that a layer is trained on, as the features (k, F) that enter it."""

    features: Rows32
    labels: Labels
    altered: npt.NDArray[np.bool_]
    """(k,) bool."""
    weight: float
    """Weight of the altered ones."""
    counts: npt.NDArray[np.int64]
    """(C,) images of each class in the whole training part."""

    @property
    def uneven(self) -> bool:
        """Whether the training part has clearly more images of some class than of another."""
        return uneven(self.counts)

    def weights(self, *, balanced: bool) -> torch.Tensor:
        """Return (k,), with a sum of 1: each class, or each image, weighs the same among the clean and the altered."""
        found = np.zeros(len(self.labels))
        weight = self.weight if self.altered.any() else 0.0
        for rows, share in ((~self.altered, 1 - weight), (self.altered, weight)):
            if share and rows.any():
                counts = np.bincount(self.labels[rows], minlength=len(self.counts))
                each = 1 / counts[self.labels[rows]] if balanced else np.ones(int(rows.sum()))
                found[rows] = share * each / each.sum()
        return torch.from_numpy(found).float()


class Head:
    """The last layer of a network with given weights, and what enters it."""

    def __init__(self, manifest: Manifest, tensors: Tensors, device: str) -> None:
        self._steps, self._device, self._tensors = manifest.preprocessing, device, tensors
        self._body, self._prefix = _body_of(network_with(manifest, tensors))
        self.layer = Layer(*(tensors[f"{self._prefix}{name}"].float().cpu() for name in ("weight", "bias")))

    def features(self, parts: Sequence[Part]) -> Rows32:
        """Return (n, F) float32: what enters the layer for the images of some parts, one after another."""
        return predict_parts(self._body, self._steps, self._device, parts)

    def images(self, train: Part, cache: Path, weight: float, classes: int) -> HeadImages:
        """Return features of the training part, or of MOST_IMAGES of it; with altered ones where `weight` is above 0.

        The altered ones are made as those of the validation part, and kept in the folder `cache`.
        """
        rows = np.sort(np.random.default_rng(0).permutation(len(train))[:MOST_IMAGES])
        clean = train.subset(rows)
        parts = [clean, altered_part(train, cache, train=len(train))] if weight else [clean]
        altered = np.concatenate([np.full(len(part), number == 1) for number, part in enumerate(parts)])
        labels = np.concatenate([part.labels for part in parts])
        counts = np.bincount(train.labels, minlength=classes)
        return HeadImages(self.features(parts), labels, altered, weight, counts)

    def with_layer(self, layer: Layer) -> dict[str, torch.Tensor]:
        """Return the weights of the network with another last layer."""
        changed = {f"{self._prefix}weight": layer.weight, f"{self._prefix}bias": layer.bias}
        return {name: changed.get(name, tensor) for name, tensor in self._tensors.items()}

    def changed(self, change: HeadChange, images: HeadImages) -> Layer:
        """Return the layer after the change."""
        if change.method == "priors":
            return shifted(self.layer, images.counts, change.strength)
        weights = images.weights(balanced=change.balanced)
        return retrained(self.layer, images, weights, change.strength)


def uneven(counts: npt.NDArray[np.int64]) -> bool:
    """Whether some class has clearly more images, (C,), than another."""
    return bool(counts.max() >= UNEVEN * max(1, counts.min()))


def head_changes(metric: str, images: HeadImages) -> list[HeadChange]:
    """Return the changes to try."""
    balanced = metric != "accuracy"
    found = [HeadChange(method="retrained", strength=penalty, balanced=balanced) for penalty in PENALTIES]
    if images.uneven:
        found += [HeadChange(method="priors", strength=share) for share in SHARES_OF_PRIORS]
    return found


def shifted(layer: Layer, counts: npt.NDArray[np.int64], share: float) -> Layer:
    """Return the layer with logits less `share` times the logarithms of the class frequencies."""
    frequencies = torch.from_numpy(np.maximum(counts, 1) / np.maximum(counts, 1).sum()).float()
    return Layer(layer.weight, layer.bias - share * frequencies.log())


def retrained(layer: Layer, images: HeadImages, weights: torch.Tensor, penalty: float) -> Layer:
    """Return the layer of least weighted cross-entropy on the images, plus a penalty on the distance to `layer`.

    The penalty is `penalty` / 2 · mean |x|² · |W - W₀|², so that it does not depend on the scale of the features x.
    """
    features, labels = torch.from_numpy(images.features), torch.from_numpy(images.labels)
    scale = penalty * float((weights * features.square().sum(dim=1)).sum())
    weight, bias = (value.clone().requires_grad_() for value in layer)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=STEPS, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        entropy = functional.cross_entropy(features @ weight.T + bias, labels, reduction="none")
        total = (weights * entropy).sum() + scale / 2 * (weight - layer.weight).square().sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    return Layer(weight.detach(), bias.detach())


def _body_of(network: Classifier) -> tuple[nn.Module, str]:
    """Return the network without its last layer, and what the names of that layer's weights begin with."""
    *before, last = list(network.head.named_children())
    return nn.Sequential(network.backbone, *(module for _, module in before)), f"head.{last[0]}."
