"""The images by which a study's model is finished: its validation part, the altered part, and two halves of them.

What is fitted on one half is measured on the other. Copies of a picture and the images of one group (`--group-by`) lie
in one half, and so do all altered forms of an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from hpo.bundle.manifest import Manifest, Preprocessing, RobustnessFigures
from hpo.bundle.model import Tensors
from hpo.bundle.validation import AlteredPredictions, Validation
from hpo.data.changed_pack import joined_groups
from hpo.data.copy_groups import recorded_keys
from hpo.data.dataset import Dataset, Labels, Part
from hpo.data.grouped_split import deal
from hpo.data.grouping import group_images, unite
from hpo.data.opening import open_source
from hpo.delivery.export import altered_scores
from hpo.delivery.selection import Merit, WeightedMetric, merit
from hpo.errors import DataError
from hpo.evaluation.altered_part import AlteredPart, altered_part
from hpo.evaluation.calibration import probabilities
from hpo.evaluation.metrics import ALTERED, Logits
from hpo.evaluation.paired_difference import MeasuredImages
from hpo.models.built_model import build_model
from hpo.models.classifier import Classifier
from hpo.models.inference import Predictor

Half = npt.NDArray[np.bool_]
"""(n,) bool: some of the validation images."""


def network_with(manifest: Manifest, tensors: Tensors) -> Classifier:
    """Return the network of a bundle of one model with these weights, on the CPU and as it is trained."""
    network = build_model(manifest.config, len(manifest.classes), initialise=False).model
    network.load_state_dict(dict(tensors))
    return network


def predict_parts(network: nn.Module, steps: Preprocessing, device: str, parts: Sequence[Part]) -> Logits:
    """Return the logits (n, C) float32 of the images of some parts, one after another; the network is moved."""
    predictor = Predictor(network, mean=steps.mean, std=steps.std, device=device, background=steps.background)
    return np.concatenate([predictor.logits(part) for part in parts])


@dataclass(frozen=True)
class ValidationImages:
    """The n validation images, then the m altered ones where these count."""

    val: Part
    altered: AlteredPart | None
    units: Labels
    """(n,) int64: validation images with the same number show the same picture, or are of the same group."""
    metric: str
    weight: float = 0.0
    """Weight of the altered images."""

    @classmethod
    def of(cls, dataset: Dataset, data: Path, cache: Path, manifest: Manifest, weight: float) -> ValidationImages:
        """Return those of the study of `manifest`, whose images `data` are open as `dataset`; altered for a `weight`.

        Raises DataError as `units_of` does.
        """
        altered = altered_part(dataset.val, cache, train=len(dataset.train)) if weight else None
        units = units_of(dataset, data, manifest.data.group_by)
        return cls(dataset.val, altered, units, manifest.metric, weight)

    @property
    def parts(self) -> list[Part]:
        """The part, or both."""
        return [self.val] if self.altered is None else [self.val, self.altered]

    @cached_property
    def rows(self) -> Labels:
        """(n + m,) int64: the validation image that each image shows."""
        rows = np.arange(len(self.val))
        return rows if self.altered is None else np.concatenate([rows, self.altered.rows])

    @cached_property
    def measured(self) -> MeasuredImages:
        """All images, as models are compared by them."""
        altered = np.arange(len(self.rows)) >= len(self.val)
        return MeasuredImages(self.val.labels[self.rows], self.units[self.rows], altered, self.metric, self.weight)

    @cached_property
    def halves(self) -> tuple[Half, Half]:
        """Two halves of the validation images, always the same."""
        first = first_half(self.val.labels, self.units)
        return first, ~first

    def predict(self, manifest: Manifest, tensors: Tensors, device: str) -> Logits:
        """Return the logits (n + m, C) of the model of `manifest` with these weights."""
        return predict_parts(network_with(manifest, tensors), manifest.preprocessing, device, self.parts)

    def validation(self, logits: Logits) -> Validation:
        """Return the predictions of logits (n + m, C) on the validation part."""
        return Validation(self.val.labels, logits[: len(self.val)])

    def robustness(self, logits: Logits) -> RobustnessFigures | None:
        """Return what the value of logits (n + m, C) is made of; None where clean images alone count."""
        if self.altered is None or not self.weight:
            return None
        found = self.measured.figures(logits)
        clean, altered = found[self.metric], found[f"{ALTERED}{self.metric}"]
        return RobustnessFigures(weight=self.weight, clean=clean, altered=altered)

    def altered_scores(self, logits: Logits) -> dict[str, Any]:
        """Return the key `altered` of metrics.json for logits (n + m, C); nothing where there are no altered images."""
        return altered_scores(self.altered_predictions(logits), self.validation(logits))

    def altered_predictions(self, logits: Logits) -> AlteredPredictions | None:
        """Return the predictions of logits (n + m, C) on the altered part; None where there is none."""
        return AlteredPredictions(self.altered.rows, logits[len(self.val) :]) if self.altered is not None else None

    def merit(self, logits: Logits, half: Half) -> Merit:
        """Return the value of logits (n + m, C), and for equals their likelihood, on the images that show `half`."""
        rows = half[self.rows]
        measured = self.measured
        metric: str | WeightedMetric = self.metric
        if measured.altered.any():
            metric = WeightedMetric(self.metric, measured.altered[rows], self.weight)
        return merit(measured.labels[rows], probabilities(logits[rows]), metric)

    def crossed(self, by_first: Logits, by_second: Logits) -> Logits:
        """Return (n + m, C): each image by the model that the other half has chosen."""
        in_second = self.halves[1][self.rows]
        return np.where(in_second[:, None], by_first, by_second)


def first_half(labels: Labels, units: Labels) -> Half:
    """Return one half of the images (n,) bool: whole units, every class divided as evenly as these allow."""
    _, of_row = np.unique(units, return_inverse=True)
    counts = np.zeros((int(of_row.max()) + 1, int(labels.max()) + 1), dtype=np.int64)
    np.add.at(counts, (of_row, labels), 1)
    shuffled = np.random.default_rng(0).permutation(len(counts))
    order = shuffled[np.argsort(-counts.sum(axis=1)[shuffled], kind="stable")]
    targets = np.tile(counts.sum(axis=0) / 2, (2, 1))
    half: Half = deal(counts, targets, order.tolist())[of_row] == 0
    return half


def units_of(dataset: Dataset, data: Path, group_by: str | None) -> Labels:
    """Return the number of the unit of each validation image (n,); DataError where all are of one group."""
    part = dataset.val
    stored = [digest for digest, _ in part.digests]
    copies = joined_groups([pixels for _, pixels in part.digests], recorded_keys(dataset.copies, stored))
    if group_by is not None:
        copies, _ = unite(copies, group_images(open_source(data), part.names, group_by).values)
    _, numbers = np.unique(np.array(copies, dtype=object), return_inverse=True)
    if len(np.unique(numbers)) < 2:
        raise DataError("all validation images belong together, so no half of them can be held out")
    return numbers.astype(np.int64)
