"""Loss: cross-entropy, focal and balanced softmax, on hard or soft targets, with label smoothing and class weights.

One formula holds for all: the mean over the images of  Σ_c w_c q_c (1 - p_c)^γ (-log p_c),  with p = softmax(logits),
q the (smoothed) target distribution, w the class weights. γ = 0 is cross-entropy; one-hot q is the focal loss of
Lin et al. 2017 (arXiv 1708.02002, eq. 4), w being its α. With p = softmax(logits + log n), n_c being the training
images of a class, it is balanced softmax (Ren et al. 2020, arXiv 2007.10740, eq. 4).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from hpo.training.consistency import ConsistencyLoss
from search_spaces import TrialConfig

BETA = 0.999
"""β of the effective number of samples (Cui et al. 2019, arXiv 1901.05555, eq. 2)."""


class ClassificationLoss(nn.Module):
    """Mean loss over a batch: logits (b, C) float32; targets (b,) int64 labels or (b, C) float32 distributions.

    It is divided by the number of images and by nothing else, class weights included: the losses of a batch's pieces,
    each times its share of the images, sum up to that of the batch.
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
        """The scalar loss; label smoothing is applied to labels, since MixUp has smoothed its distributions already."""
        if self.log_priors is not None:
            logits = logits + self.log_priors
        if targets.ndim == 1 and not self.gamma and self.weights is None:
            return functional.cross_entropy(logits, targets, label_smoothing=self.smoothing)
        target = smoothed(targets, logits.shape[1], self.smoothing) if targets.ndim == 1 else targets
        log_p = functional.log_softmax(logits, dim=1)
        terms = -target * log_p
        if self.gamma:
            # Kept from 0, where the power has no finite slope for γ < 1 and a sure answer would give NaN.
            terms = terms * (-torch.expm1(log_p)).clamp_min(1e-6).pow(self.gamma)
        if self.weights is not None:
            terms = terms * self.weights
        return terms.sum(dim=1).mean()


def smoothed(labels: Tensor, classes: int, smoothing: float) -> Tensor:
    """Labels (b,) -> distributions (b, classes) float32: (1 - smoothing) at the label, the rest spread over all."""
    return functional.one_hot(labels, classes).float() * (1 - smoothing) + smoothing / classes


def class_weights(labels: npt.NDArray[np.int64], classes: int, kind: str) -> npt.NDArray[np.float32] | None:
    """Weights (classes,) float32 whose mean over the training images is 1, so that the loss keeps its scale.

    `inverse`: 1 / n_c. `effective`: (1 - β) / (1 - β^n_c), Cui et al. 2019. A class without an image gets 0.
    `none` gives None.
    """
    if kind == "none":
        return None
    counts = np.bincount(labels, minlength=classes).astype(np.float64)
    effective = counts if kind == "inverse" else (1 - BETA**counts) / (1 - BETA)
    raw = np.divide(1.0, effective, out=np.zeros(classes), where=counts > 0)
    weights: npt.NDArray[np.float32] = (raw * counts.sum() / (raw * counts).sum()).astype(np.float32)
    return weights


def log_priors(labels: npt.NDArray[np.int64], classes: int) -> npt.NDArray[np.float32]:
    """Logarithms (classes,) float32 of the classes' shares of the images; a class without an image counts as one."""
    counts = np.bincount(labels, minlength=classes).clip(min=1)
    priors: npt.NDArray[np.float32] = np.log(counts / counts.sum()).astype(np.float32)
    return priors


def build_loss(
    config: TrialConfig, labels: npt.NDArray[np.int64], classes: int
) -> ClassificationLoss | ConsistencyLoss:
    """The configuration's loss; `labels` (n,) are those of the training part.

    With AugMix's consistency it takes the logits (b, V, C) of all views of an image, else (b, C).
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
