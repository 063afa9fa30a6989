"""Loaders of training batches and logits of the validation part: from images, or from features computed once.

The features of a wholly frozen backbone never change, so the head alone runs over stored features if they fit.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from typing import Protocol

import torch
from torch import Tensor

from hpo.data.dataset import Part, Rows, rows_in_order
from hpo.evaluation.metrics import Logits
from hpo.interruption import ShouldStop, until_stopped
from hpo.models.classifier import Classifier
from hpo.models.compute_format import ComputeFormat, Normaliser
from hpo.models.feeds import Feed, plain_feed
from hpo.models.inference import compute_outputs
from hpo.seeds import derive_seed
from hpo.training.batches import augments, batch_count, epoch_batches
from hpo.training.epoch_order import epoch_length, epoch_order
from hpo.training.loss import Mixer
from search_spaces import TrialConfig

MOST_FEATURE_BYTES = 2 * 2**30
"""Largest size in bytes of stored features; those of a larger part are computed again in each epoch."""

Batch = tuple[Tensor, Tensor]
"""Inputs (b, …) float, and targets: (b,) int64 labels or (b, C) float32 distributions."""

Batches = Generator[Batch, None, None]
"""Close the generator if it is left early: that ends the threads which prepare batches."""


class Order:
    """The order of rows in every epoch, cut into batches, and their labels on the device."""

    def __init__(self, config: TrialConfig, part: Part, device: torch.device, seed: int) -> None:
        self._config = config
        self._labels = part.labels
        self._on_device = torch.tensor(part.labels, device=device)
        self._seed = seed
        self.images = epoch_length(part.labels, config)
        """Images of an epoch."""
        self.updates = batch_count(self.images, config.batch_size)

    def epoch(self, epoch: int) -> tuple[list[Rows], tuple[Tensor, ...]]:
        """Return the rows of each batch, and the labels (b,) of each batch on the device."""
        config = self._config
        order = epoch_order(
            self._labels, balanced=config.balanced_sampling, seed=self._seed, epoch=epoch,
            oversample_to=config.oversample_to,
        )  # fmt: skip
        batches = epoch_batches(order, config.batch_size)
        labels = self._on_device[torch.from_numpy(order).to(self._on_device.device)]
        return batches, torch.split(labels, [len(rows) for rows in batches])


class Loader(Protocol):
    """Gives the batches of one epoch after another."""

    def epoch(self, epoch: int, done: int = 0) -> Batches:
        """Yield the batches of epoch number `epoch`, from 0, except the first `done`, which are not computed."""


class ImageLoader:
    """Loads images, or views of each, augmented, normalised and mixed."""

    def __init__(self, order: Order, feed: Feed, normalise: Normaliser, mixer: Mixer | None, seed: int) -> None:
        self._order = order
        self._feed = feed
        self._normalise = normalise
        self._mixer = mixer
        self._seed = seed

    def epoch(self, epoch: int, done: int = 0) -> Batches:
        """Yield the batches of epoch number `epoch`, from 0, except the first `done`, which are not computed."""
        rows, labels = self._order.epoch(epoch)
        with closing(self._feed.epoch(rows, epoch, done)) as batches:
            for number, images in enumerate(batches, start=done):
                inputs = self._normalise(images)
                if self._mixer is None:
                    yield inputs, labels[number]
                else:
                    yield self._mixer(inputs, labels[number], derive_seed(self._seed, "mix", epoch, number))


class FeatureLoader:
    """Loads the features of a frozen backbone, which it computes before the first epoch that needs them."""

    def __init__(self, order: Order, part: Part, model: Classifier, extract: FeatureExtractor) -> None:
        self._order = order
        self._part = part
        self._model = model
        self._extract = extract
        self._features: Tensor | None = None

    def epoch(self, epoch: int, done: int = 0) -> Batches:
        """Yield the batches of epoch number `epoch`, from 0, except the first `done`, which are not computed."""
        if self._features is None:
            self._features = self._extract(self._model, self._part)
        batches, labels = self._order.epoch(epoch)
        for rows, targets in zip(batches[done:], labels[done:], strict=True):
            yield self._features[torch.from_numpy(rows).to(self._features.device)], targets


class ImageValidation:
    """Runs the whole network over the part's images."""

    def __init__(
        self,
        rows: list[Rows],
        feed: Feed,
        normalise: Normaliser,
        compute_format: ComputeFormat,
        should_stop: ShouldStop,
    ) -> None:
        self._rows = rows
        self._feed = feed
        self._normalise = normalise
        self._format = compute_format
        self._should_stop = should_stop

    def logits(self, model: Classifier) -> Logits:
        """Return (n, C) float32 in the part's order; raise TrainingInterrupted when stopped between two batches."""
        with closing(self._feed.epoch(self._rows, 0)) as images:
            inputs = map(self._normalise, until_stopped(images, self._should_stop))
            return _numpy(compute_outputs(model, inputs, self._format))


class FeatureValidation:
    """Runs the head alone over features that a frozen backbone computes once."""

    def __init__(self, part: Part, extract: FeatureExtractor, compute_format: ComputeFormat, batch_size: int) -> None:
        self._part = part
        self._extract = extract
        self._format = compute_format
        self._batch_size = batch_size
        self._features: Tensor | None = None

    def logits(self, model: Classifier) -> Logits:
        """Return (n, C) float32 in the part's order; raise TrainingInterrupted when stopped in the extraction."""
        if self._features is None:
            self._features = self._extract(model, self._part)
        return _numpy(compute_outputs(model.head, torch.split(self._features, self._batch_size), self._format))


def _numpy(logits: Tensor) -> Logits:
    values: Logits = logits.float().cpu().numpy()
    return values


class FeatureExtractor:
    """Computes the pooled features (n, F) of a part's images on the device, in the precision of the head's input."""

    def __init__(
        self, normalise: Normaliser, compute_format: ComputeFormat, batch_size: int, should_stop: ShouldStop
    ) -> None:
        self._normalise = normalise
        self._format = compute_format
        self._batch_size = batch_size
        self._should_stop = should_stop

    def __call__(self, model: Classifier, part: Part) -> Tensor:
        """Return the features of `part` in its order.

        Raises TrainingInterrupted when stopped between two batches; the features computed so far are lost.
        """
        feed = plain_feed(part, next(model.parameters()).device, self._should_stop)
        with closing(feed.epoch(rows_in_order(len(part), self._batch_size), 0)) as images:
            inputs = map(self._normalise, until_stopped(images, self._should_stop))
            # A clone is an ordinary tensor, not one of inference mode, so training may save it for a backward pass.
            return compute_outputs(model.backbone, inputs, self._format).clone()


def inputs_repeat(config: TrialConfig) -> bool:
    """Return whether the head sees the same features in every epoch: a frozen backbone and unchanged images."""
    return backbone_frozen(config) and not augments(config) and not config.mixup and not config.cutmix


def validation_repeats(config: TrialConfig) -> bool:
    """Return whether the features of the validation images can be stored: a frozen backbone and unchanged images."""
    # Augmented validation images never change either, but a feed of their own makes them.
    return backbone_frozen(config) and not config.validation_augmented


def backbone_frozen(config: TrialConfig) -> bool:
    """Return whether only the head trains in all phases, so that the features of an image never change."""
    return config.deepest_phase().unfreeze_depth == 0


def storable(part: Part, width: int) -> bool:
    """Return whether the (n, width) float32 features of a part are small enough to be stored in memory."""
    return len(part) * width * 4 <= MOST_FEATURE_BYTES
