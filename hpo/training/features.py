"""What a wholly frozen backbone computes, computed once: pooled features of every image of a part."""

from __future__ import annotations

from contextlib import closing

from torch import Tensor

from hpo.data.dataset import Part
from hpo.training.batches import augments, plain_feed
from hpo.training.classifier import Classifier
from hpo.training.inference import outputs
from hpo.training.interruption import ShouldStop, until_stopped
from hpo.training.normalise import Normaliser
from hpo.training.numerics import NumberFormat
from hpo.training.phases import deepest
from hpo.training.sampling import rows_in_order
from search_spaces import TrialConfig

LARGEST = 2 * 2**30
"""Bytes of features that are kept at most; a larger part is computed again each epoch."""


def backbone_frozen(config: TrialConfig) -> bool:
    """Whether the head alone trains, in all phases, so that the features of an image never change."""
    return deepest(config) == 0


def inputs_repeat(config: TrialConfig) -> bool:
    """Whether every epoch shows the head the same features: a frozen backbone, and images that nothing alters."""
    return backbone_frozen(config) and not augments(config) and not config.mixup and not config.cutmix


def validation_repeats(config: TrialConfig) -> bool:
    """Whether the features of the validation images never change: a frozen backbone, and images that are as they are.

    Where some of them are augmented, they never change either, but then they come from a feed of their own.
    """
    return backbone_frozen(config) and not config.validation_augmented


def storable(part: Part, width: int) -> bool:
    """Whether the (n, width) float32 features of a part may be kept in memory."""
    return len(part) * width * 4 <= LARGEST


class FeatureExtractor:
    """Images of a part -> pooled features (n, F) on the device, in the precision that the head sees them in."""

    def __init__(
        self, normalise: Normaliser, number_format: NumberFormat, batch_size: int, should_stop: ShouldStop
    ) -> None:
        self._normalise = normalise
        self._format = number_format
        self._batch_size = batch_size
        self._should_stop = should_stop

    def __call__(self, model: Classifier, part: Part) -> Tensor:
        """The features of `part`, in its order; an ordinary tensor, which training may save for a backward pass.

        TrainingInterrupted when asked to stop between two batches; what was computed by then is lost.
        """
        feed = plain_feed(part, next(model.parameters()).device, self._should_stop)
        with closing(feed.epoch(rows_in_order(len(part), self._batch_size), 0)) as images:
            inputs = map(self._normalise, until_stopped(images, self._should_stop))
            return outputs(model.backbone, inputs, self._format).clone()
