"""The objective of a training step: a classification loss, AugMix's consistency, penalties on the head; and mixing.

The classification loss is the mean over the images of  Σ_c w_c q_c (1 - p_c)^γ (-log p_c),  with p = softmax(logits),
q the (smoothed) target distribution, w the class weights. γ = 0 is cross-entropy; one-hot q is the focal loss of
Lin et al. 2017 (arXiv 1708.02002, eq. 4), with w as its α. With p = softmax(logits + log n), where n_c is the number of
training images of a class, it is balanced softmax (Ren et al. 2020, arXiv 2007.10740, eq. 4).

The consistency loss asks for equal predictions for an image and its augmented views (Hendrycks et al. 2020).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from timm.data.mixup import Mixup
from torch import Tensor, nn
from torch.nn import functional

from hpo.models.classifier import Classifier
from hpo.models.compute_format import ComputeFormat
from hpo.seeds import seeded_numpy
from search_spaces import TrialConfig

BETA = 0.999
"""β of the effective number of samples (Cui et al. 2019, arXiv 1901.05555, eq. 2)."""


class Objective:
    """(inputs (b, …), targets (b, …)) -> scalar to minimise: a mean over the images, plus penalties on the head."""

    def __init__(
        self,
        config: TrialConfig,
        model: Classifier,
        criterion: nn.Module,
        compute_format: ComputeFormat,
        *,
        device: torch.device,
        on_features: bool = False,
    ) -> None:
        seen: nn.Module = model.head if on_features else model
        self.network: nn.Module = OverViews(seen) if config.augmix_consistency else seen
        """The network that runs: the classifier, or its head alone over stored features."""
        self._criterion = criterion.to(device)
        self._head = model.head
        self._l1, self._l2 = config.l1, config.l2
        self._format = compute_format
        self._device = device

    def __call__(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the scalar in float32; the network computes in the compute format."""
        with self._format.autocast(self._device):
            logits = self.network(inputs)
        loss: Tensor = self._criterion(logits.float(), targets)
        if self._l1:
            loss = loss + self._l1 * l1_penalty(self._head)
        if self._l2:
            loss = loss + self._l2 * l2_penalty(self._head)
        return loss


class OverViews(nn.Module):
    """Runs a network over V views of each image: (b, V, 3, S, S) -> (b, V, C). BatchNorm sees them as one batch."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, views: Tensor) -> Tensor:
        """Return the logits (b, V, C)."""
        logits: Tensor = self.network(views.flatten(0, 1))
        return logits.view(*views.shape[:2], -1)


def l1_penalty(head: nn.Module) -> Tensor:
    """Return the sum of the absolute weights of the head's linear layers, without biases; a float32 scalar."""
    return sum((weight.abs().sum() for weight in _linear_weights(head)), torch.zeros(()))


def l2_penalty(head: nn.Module) -> Tensor:
    """Return the sum of the squared weights of the head's linear layers, without biases; a float32 scalar."""
    return sum((weight.square().sum() for weight in _linear_weights(head)), torch.zeros(()))


def _linear_weights(head: nn.Module) -> Iterator[Tensor]:
    return (layer.weight for layer in head.modules() if isinstance(layer, nn.Linear))


def build_loss(
    config: TrialConfig, labels: npt.NDArray[np.int64], classes: int
) -> ClassificationLoss | ConsistencyLoss:
    """Return the configuration's loss; `labels` (n,) are those of the images of an epoch.

    With AugMix's consistency the loss takes logits (b, V, C) of all views of an image, else (b, C).
    """
    weights = class_weights(labels, classes, config.class_weights)
    balanced = config.loss == "balanced-softmax"
    classification = ClassificationLoss(
        gamma=config.focal_gamma if config.loss == "focal" else 0.0,
        smoothing=config.label_smoothing,
        weights=None if weights is None else torch.from_numpy(weights),
        log_priors=torch.from_numpy(log_priors(labels, classes)) if balanced else None,
    )
    consistency = config.augmix_consistency
    return ConsistencyLoss(classification, consistency) if consistency else classification


class ClassificationLoss(nn.Module):
    """Mean loss over a batch: logits (b, C) float32; targets (b,) int64 labels or (b, C) float32 distributions.

    The sum is divided by the number of images, not by the sum of class weights, so the losses of a batch's pieces, each
    times its share of the images, sum up to the loss of the batch.
    """

    def __init__(
        self,
        *,
        gamma: float = 0.0,
        smoothing: float = 0.0,
        weights: Tensor | None = None,
        log_priors: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.gamma = gamma
        self.smoothing = smoothing
        self.weights: Tensor | None
        self.log_priors: Tensor | None
        self.register_buffer("weights", weights, persistent=False)
        self.register_buffer("log_priors", log_priors, persistent=False)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the scalar loss."""
        if self.log_priors is not None:
            logits = logits + self.log_priors
        if targets.ndim == 1 and not self.gamma and self.weights is None:
            return functional.cross_entropy(logits, targets, label_smoothing=self.smoothing)
        # Distributions come from MixUp, which has smoothed them already.
        target = smoothed(targets, logits.shape[1], self.smoothing) if targets.ndim == 1 else targets
        log_p = functional.log_softmax(logits, dim=1)
        terms = -target * log_p
        if self.gamma:
            # Kept above 0: there the power has no finite slope for γ < 1, and a certain prediction would give NaN.
            terms = terms * (-torch.expm1(log_p)).clamp_min(1e-6).pow(self.gamma)
        if self.weights is not None:
            terms = terms * self.weights
        return terms.sum(dim=1).mean()


def smoothed(labels: Tensor, classes: int, smoothing: float) -> Tensor:
    """Return distributions (b, classes) float32 for labels (b,): 1 - smoothing at the label, the rest over all."""
    return functional.one_hot(labels, classes).float() * (1 - smoothing) + smoothing / classes


def class_weights(labels: npt.NDArray[np.int64], classes: int, kind: str) -> npt.NDArray[np.float32] | None:
    """Return weights (classes,) float32 whose mean over the training images is 1, so that the loss keeps its scale.

    `inverse`: 1 / n_c. `effective`: (1 - β) / (1 - β^n_c), Cui et al. 2019. A class without an image gets 0. The
    result is None for `none`.
    """
    if kind == "none":
        return None
    counts = np.bincount(labels, minlength=classes).astype(np.float64)
    effective = counts if kind == "inverse" else (1 - BETA**counts) / (1 - BETA)
    raw = np.divide(1.0, effective, out=np.zeros(classes), where=counts > 0)
    weights: npt.NDArray[np.float32] = (raw * counts.sum() / (raw * counts).sum()).astype(np.float32)
    return weights


def log_priors(labels: npt.NDArray[np.int64], classes: int) -> npt.NDArray[np.float32]:
    """Return the logarithms (classes,) float32 of the classes' shares; a class without images counts as one image."""
    counts = np.bincount(labels, minlength=classes).clip(min=1)
    priors: npt.NDArray[np.float32] = np.log(counts / counts.sum()).astype(np.float32)
    return priors


class ConsistencyLoss(nn.Module):
    """The loss of the first view, the image itself, plus `weight` times the divergence of all views.

    This is equation 2 of arXiv 1912.02781, with `weight` as its λ.
    """

    def __init__(self, classification: nn.Module, weight: float) -> None:
        super().__init__()
        self.classification = classification
        self.weight = weight

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the scalar mean over the images, from logits (b, V, C) float32 and targets (b,) int64."""
        loss: Tensor = self.classification(logits[:, 0], targets)
        return loss + self.weight * jensen_shannon(logits)


def jensen_shannon(logits: Tensor) -> Tensor:
    """Return the mean Jensen-Shannon divergence, in nats, of the predictions for V views: logits (b, V, C) -> ().

    It is the mean over the views of KL(p_v || m), where m is the mean of all p_v (arXiv 1912.02781, equation 3).
    """
    log_p = torch.log_softmax(logits, dim=2)
    log_m = torch.logsumexp(log_p, dim=1, keepdim=True) - math.log(logits.shape[1])
    return (log_p.exp() * (log_p - log_m)).sum(dim=2).mean()


class Mixer:
    """Mixes a batch with its own reverse by timm's MixUp or CutMix; if both are on, by one of them, drawn evenly."""

    def __init__(self, config: TrialConfig, classes: int) -> None:
        self._classes = classes
        self._smoothing = config.label_smoothing
        self._mixup: Any = Mixup(  # type: ignore[no-untyped-call]
            mixup_alpha=config.mixup,
            cutmix_alpha=config.cutmix,
            label_smoothing=config.label_smoothing,
            num_classes=classes,
        )

    def __call__(self, images: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Mix images (b, 3, S, S) float in place; return them and targets (b, C) float32."""
        # timm mixes even batches only: the last image of an odd batch stays unmixed.
        even = len(images) - len(images) % 2
        with seeded_numpy(seed):
            _, mixed = self._mixup(images[:even], labels[:even])
        rest = smoothed(labels[even:], self._classes, self._smoothing)
        return images, torch.cat([mixed, rest]).float()


def build_mixer(config: TrialConfig, classes: int) -> Mixer | None:
    """Return the configuration's mixer; None without MixUp and CutMix."""
    return Mixer(config, classes) if config.mixup or config.cutmix else None
