"""Changes of trained weights that need no training, and their repetition after a retraining."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import safetensors.torch
import torch

from hpo.augmentation.background import with_background
from hpo.bundle.manifest import Manifest
from hpo.bundle.model import Tensors
from hpo.data.dataset import Part
from hpo.delivery.balanced_head import Head
from hpo.delivery.validation_images import network_with
from hpo.models.adapted_statistics import adapt_statistics
from hpo.models.built_model import build_model
from hpo.models.compute_format import ComputeFormat, Normaliser

STATISTICS_IMAGES = 1024
"""Training images, at most, by which the statistics of BatchNorm are estimated anew."""

_BATCH = 64


def between(original: Tensors, tuned: Tensors, share: float) -> dict[str, torch.Tensor]:
    """Return (1 - share) original + share tuned of the floating tensors of the backbone; all others are the tuned."""
    return {
        name: torch.lerp(original[name], tensor, share)
        if name.startswith("backbone.") and tensor.is_floating_point() and share < 1
        else tensor
        for name, tensor in tuned.items()
    }


def with_new_statistics(manifest: Manifest, tensors: Tensors, train: Part, device: str) -> Tensors:
    """Return the weights with the statistics of BatchNorm mixed with those of training images as they are."""
    network = network_with(manifest, tensors)
    place, compute_format, steps = torch.device(device), ComputeFormat("fp32"), manifest.preprocessing
    normalise = Normaliser(steps.mean, steps.std, place, compute_format)
    compute_format.place(network, place)
    rows = np.random.default_rng(0).permutation(len(train))[:STATISTICS_IMAGES]
    inputs = (
        normalise(torch.from_numpy(with_background(train.batch(some), steps.background)).to(place))
        for some in np.array_split(rows, -(-len(rows) // _BATCH))
    )
    adapt_statistics(network, inputs, len(rows))
    return {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}


def repeat_changes(manifest: Manifest, model: bytes, train: Part, cache: Path, device: str) -> bytes:
    """Return newly trained weights, safetensors, with the changes that the manifest has, in the order of finishing.

    These are the statistics of BatchNorm, the point between the original weights and these, and the last layer, fitted
    anew to the images `train`. `manifest` names the file of the original weights on this machine.
    """
    finished, interpolated = manifest.finished, manifest.interpolated
    if interpolated is None and (finished is None or not (finished.statistics or finished.head)):
        return model
    tensors: Tensors = safetensors.torch.load(model)
    if finished is not None and finished.statistics:
        tensors = with_new_statistics(manifest, tensors, train, device)
    if interpolated is not None:
        original = build_model(manifest.config, len(manifest.classes)).model.state_dict()
        tensors = between(original, tensors, interpolated.share)
    if finished is not None and finished.head is not None:
        head = Head(manifest, tensors, device)
        weight = manifest.robustness.weight if manifest.robustness else 0.0
        images = head.images(train, cache, weight, len(manifest.classes))
        tensors = head.with_layer(head.changed(finished.head, images))
    return safetensors.torch.save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()})
