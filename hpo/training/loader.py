"""Loaders: what the network is shown in an epoch, batch by batch, as (inputs, targets) on the device."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from typing import Protocol

import torch
from torch import Tensor

from hpo.data.dataset import Part
from hpo.training.batches import Feed
from hpo.training.classifier import Classifier
from hpo.training.features import FeatureExtractor
from hpo.training.mix import Mixer
from hpo.training.normalise import Normaliser
from hpo.training.randomness import derive
from hpo.training.sampling import Rows, batch_count, epoch_batches, epoch_order
from search_spaces import TrialConfig

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
                    yield self._mixer(inputs, labels[number], derive(self._seed, "mix", epoch, number))


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
