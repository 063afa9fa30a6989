"""A backbone that does not train: uint8 images in, pooled features out, the same for the same weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from hpo.data.dataset import Images
from hpo.errors import ModelError
from hpo.models.backbone import network_name
from hpo.models.baselines import is_baseline
from hpo.models.built_model import build_model
from hpo.models.inference import Predictor
from hpo.seeds import seeded
from search_spaces import TrialConfig

Features = npt.NDArray[np.float16]
"""(n, F) float16 pooled features."""

LARGEST = float(np.finfo(np.float16).max)
"""Features beyond the largest float16 become this value."""

_DIGEST_BYTES = 16


class FrozenBackbone:
    """The backbone of a configuration with its weights and normalisation, in evaluation mode on a device.

    `identity` holds everything that the features depend on beside the images.
    """

    def __init__(self, config: TrialConfig, *, device: str = "cpu", precision: str = "fp32") -> None:
        """Build the backbone: name, weights, normalisation and image size count, nothing else of `config` does.

        Random weights (`pretrained=False`) are the same in each process. Raises ModelError for a baseline, which has no
        features, for an image size that the backbone does not take, and as `build_model` does.
        """
        if is_baseline(config.backbone):
            raise ModelError(f"{config.backbone} is a baseline without features: give the name of a timm backbone")
        with seeded(0, torch.device("cpu")):
            built = build_model(config, 1)
        self.name = config.backbone
        self.origin = built.origin
        """Source of the weights, in words, as in `BuiltModel`."""
        self.width = built.features
        """F, the length of the features."""
        self.image_size = config.image_size
        self.on_cpu = torch.device(device).type == "cpu"
        self.identity: Mapping[str, Any] = {
            "backbone": network_name(config),
            "weights": tensors_digest(built.model.backbone),
            "image_size": config.image_size,
            "mean": list(built.mean),
            "std": list(built.std),
            "precision": precision,
        }
        self._predictor = Predictor(
            built.model.backbone, mean=built.mean, std=built.std, device=device, precision=precision
        )
        self._check_image_size()

    def _check_image_size(self) -> None:
        size = self.image_size
        try:
            self._predictor.logits([np.zeros((1, size, size, 3), np.uint8)])
        except (RuntimeError, AssertionError, ValueError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ModelError(f"image_size is {size}, but {self.name} takes no such image: {reason}") from error

    def features(self, images: Images) -> Features:
        """Return the features (b, F) float16 of images (b, S, S, 3) uint8.

        Raises ModelError for features that are not finite, as damaged weights give them.
        """
        values = self._predictor.logits([images])
        if not np.isfinite(values).all():
            raise ModelError(f"{self.name} gives features that are not finite: its weights ({self.origin}) are damaged")
        return np.clip(values, -LARGEST, LARGEST).astype(np.float16)


def tensors_digest(module: nn.Module) -> str:
    """Return 32 hex digits of all parameters and buffers of `module`, by name: equal ones compute the same."""
    state = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    tensors: dict[str, Tensor] = module.state_dict()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        state.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        state.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return state.hexdigest()
