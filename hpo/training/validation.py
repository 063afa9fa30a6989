"""Logits of the validation part after each epoch."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hpo.data.dataset import Part
from hpo.training.batches import Feed
from hpo.training.classifier import Classifier
from hpo.training.features import FeatureExtractor
from hpo.training.inference import outputs
from hpo.training.interruption import ShouldStop, until_stopped
from hpo.training.normalise import Normaliser
from hpo.training.numerics import NumberFormat
from hpo.training.sampling import Rows

Logits = npt.NDArray[np.float32]


class Validation:
    """Runs the whole network over the part's images."""

    def __init__(
        self, rows: list[Rows], feed: Feed, normalise: Normaliser, number_format: NumberFormat, should_stop: ShouldStop
    ) -> None:
        self._rows = rows
        self._feed = feed
        self._normalise = normalise
        self._format = number_format
        self._should_stop = should_stop

    def logits(self, model: Classifier) -> Logits:
        """(n, C) float32 in the order of the part; TrainingInterrupted when asked to stop between two batches."""
        with closing(self._feed.epoch(self._rows, 0)) as images:
            inputs = map(self._normalise, until_stopped(images, self._should_stop))
            return _numpy(outputs(model, inputs, self._format))


class FeatureValidation:
    """Runs the head alone, over features that a frozen backbone has computed once."""

    def __init__(self, part: Part, extract: FeatureExtractor, number_format: NumberFormat, batch_size: int) -> None:
        self._part = part
        self._extract = extract
        self._format = number_format
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
