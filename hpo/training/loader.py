"""What a wholly frozen backbone computes, computed once: pooled features of every image of a part.

Loaders: what the network is shown in an epoch, batch by batch, as (inputs, targets) on the device.

Logits of the validation part after each epoch.
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
from hpo.models.classifier import Classifier, largest_unfreeze_depth
from hpo.models.compute_format import ComputeFormat, Normaliser
from hpo.models.feeds import Feed, plain_feed
from hpo.models.inference import outputs
from hpo.seeds import derive_seed
from hpo.training.batches import augments, batch_count, epoch_batches, epoch_order
from hpo.training.loss import Mixer
from search_spaces import TrialConfig

LARGEST = 2 * 2**30
"""Bytes of features that are kept at most; a larger part is computed again each epoch."""


def backbone_frozen(config: TrialConfig) -> bool:
    """Whether the head alone trains, in all phases, so that the features of an image never change."""
    return largest_unfreeze_depth(config) == 0


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
        self, normalise: Normaliser, compute_format: ComputeFormat, batch_size: int, should_stop: ShouldStop
    ) -> None:
        self._normalise = normalise
        self._format = compute_format
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


Batch = tuple[Tensor, Tensor]
"""Inputs (b, …) float, and targets: (b,) int64 labels or (b, C) float32 distributions."""

Batches = Generator[Batch, None, None]
"""Close it when leaving it early: threads that prepare batches end with it."""


class Order:
    """The batches of rows of every epoch, and their labels on the device."""

    def __init__(self, config: TrialConfig, part: Part, device: torch.device, seed: int) -> None:
        self._config = config
        self._labels = part.labels
        self._on_device = torch.tensor(part.labels, device=device)
        self._seed = seed
        self.updates = batch_count(len(part), config.batch_size)

    def epoch(self, epoch: int) -> tuple[list[Rows], tuple[Tensor, ...]]:
        """Rows of each batch, and labels (b,) of each batch on the device."""
        order = epoch_order(self._labels, balanced=self._config.balanced_sampling, seed=self._seed, epoch=epoch)
        batches = epoch_batches(order, self._config.batch_size)
        labels = self._on_device[torch.from_numpy(order).to(self._on_device.device)]
        return batches, torch.split(labels, [len(rows) for rows in batches])


class Loader(Protocol):
    """Batches of one epoch after another."""

    def epoch(self, epoch: int, done: int = 0) -> Batches:
        """The batches of epoch number `epoch`, from 0, but the first `done`, which cost nothing."""


class ImageLoader:
    """Images, or views of each, augmented, normalised and mixed."""

    def __init__(self, order: Order, feed: Feed, normalise: Normaliser, mixer: Mixer | None, seed: int) -> None:
        self._order = order
        self._feed = feed
        self._normalise = normalise
        self._mixer = mixer
        self._seed = seed

    def epoch(self, epoch: int, done: int = 0) -> Batches:
        """The batches of epoch number `epoch`, from 0, but the first `done`, which cost nothing."""
        rows, labels = self._order.epoch(epoch)
        with closing(self._feed.epoch(rows, epoch, done)) as batches:
            for number, images in enumerate(batches, start=done):
                inputs = self._normalise(images)
                if self._mixer is None:
                    yield inputs, labels[number]
                else:
                    yield self._mixer(inputs, labels[number], derive_seed(self._seed, "mix", epoch, number))


class FeatureLoader:
    """The features of a frozen backbone, computed before the first epoch that needs them."""

    def __init__(self, order: Order, part: Part, model: Classifier, extract: FeatureExtractor) -> None:
        self._order = order
        self._part = part
        self._model = model
        self._extract = extract
        self._features: Tensor | None = None

    def epoch(self, epoch: int, done: int = 0) -> Batches:
        """The batches of epoch number `epoch`, from 0, but the first `done`, which cost nothing."""
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
        """(n, C) float32 in the order of the part; TrainingInterrupted when asked to stop between two batches."""
        with closing(self._feed.epoch(self._rows, 0)) as images:
            inputs = map(self._normalise, until_stopped(images, self._should_stop))
            return _numpy(outputs(model, inputs, self._format))


class FeatureValidation:
    """Runs the head alone, over features that a frozen backbone has computed once."""

    def __init__(self, part: Part, extract: FeatureExtractor, compute_format: ComputeFormat, batch_size: int) -> None:
        self._part = part
        self._extract = extract
        self._format = compute_format
        self._batch_size = batch_size
        self._features: Tensor | None = None

    def logits(self, model: Classifier) -> Logits:
        """(n, C) float32 in the order of the part; TrainingInterrupted when asked to stop in the extraction."""
        if self._features is None:
            self._features = self._extract(model, self._part)
        return _numpy(outputs(model.head, torch.split(self._features, self._batch_size), self._format))


def _numpy(logits: Tensor) -> Logits:
    values: Logits = logits.float().cpu().numpy()
    return values
