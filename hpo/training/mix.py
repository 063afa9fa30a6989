"""MixUp and CutMix (timm's), seeded for each batch."""

from __future__ import annotations

from typing import Any

import torch
from timm.data.mixup import Mixup
from torch import Tensor

from hpo.training.loss import smoothed
from hpo.training.randomness import seeded_numpy
from search_spaces import TrialConfig


class Mixer:
    """Mixes a batch with its own reverse; where both are on, each batch gets one of them, with equal chance."""

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
        """Mix images (b, 3, S, S) float in place; give them and targets (b, C) float32.

        timm takes even batches only: the last image of an odd one stays as it is.
        """
        even = len(images) - len(images) % 2
        with seeded_numpy(seed):
            _, mixed = self._mixup(images[:even], labels[:even])
        rest = smoothed(labels[even:], self._classes, self._smoothing)
        return images, torch.cat([mixed, rest]).float()


def build_mixer(config: TrialConfig, classes: int) -> Mixer | None:
    """The configuration's mixer; None where it mixes nothing."""
    return Mixer(config, classes) if config.mixup or config.cutmix else None
