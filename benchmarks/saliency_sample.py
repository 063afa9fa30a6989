"""The images of `benchmarks.saliency`: a sample of each class, masks of the cells, and the same images moved."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from hpo.bundle.evaluate import select
from hpo.bundle.model import Model
from hpo.data import Part
from hpo.explain import cell_mask

Images = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Sample:
    """n images with masks of their cells and the classes that the model predicts."""

    images: Images
    masks: Flags
    """Whether a pixel belongs to the cell, (n, S, S)."""
    labels: Numbers
    predicted: Numbers
    names: list[str]
    drawn: Flags
    """Whether an image was drawn for its class; the others are misclassified ones."""

    @property
    def right(self) -> Flags:
        """Whether the predicted class is right, (n,)."""
        return self.predicted == self.labels


def draw_sample(model: Model, data: Path, split: Literal["train", "val"], per_class: int, seed: int) -> Sample:
    """Draw `per_class` images of each class of a part of `data`, and add all others that the model gets wrong."""
    with tempfile.TemporaryDirectory(prefix="hpo-bench-") as cache:
        part = select(model.bundle.manifest, data, cache=Path(cache), split=split).part
        images = part.batch(np.arange(len(part)))
    predicted = model.logits(images).argmax(axis=1)
    drawn = draw(part, len(model.classes), per_class, seed)
    rows = np.concatenate([drawn, np.setdiff1d(np.flatnonzero(predicted != part.labels), drawn)])
    return Sample(
        images=images[rows], masks=np.stack([cell_mask(images[row]) for row in rows]), labels=part.labels[rows],
        predicted=predicted[rows], names=[part.names[row] for row in rows], drawn=np.arange(len(rows)) < len(drawn),
    )  # fmt: skip


def draw(part: Part, classes: int, per_class: int, seed: int) -> Numbers:
    """Draw rows of `part`, `per_class` of each class, or all if there are fewer."""
    order = np.random.default_rng(seed).permutation(len(part))
    return np.concatenate([order[part.labels[order] == number][:per_class] for number in range(classes)])


def moved(model: Model, sample: Sample, share: float, seed: int) -> Sample:
    """Move every image in both directions by `share` of its side; uncovered pixels mirror the image."""
    pixels = round(share * model.image_size)
    steps = np.random.default_rng(seed).choice([-pixels, pixels], (len(sample.images), 2))
    images = _all_shifted(sample.images, steps, cv2.BORDER_REFLECT_101)
    masks = _all_shifted(sample.masks.astype(np.uint8), steps, cv2.BORDER_CONSTANT) > 0
    return replace(sample, images=images, masks=masks, predicted=model.logits(images).argmax(axis=1))


def _all_shifted(images: Images, steps: Numbers, border: int) -> Images:
    return np.stack([_shifted(image, step, border) for image, step in zip(images, steps, strict=True)])


def _shifted(image: Images, step: Numbers, border: int) -> Images:
    matrix = np.array([[1, 0, step[0]], [0, 1, step[1]]], np.float32)
    return np.asarray(cv2.warpAffine(image, matrix, image.shape[1::-1], borderMode=border), np.uint8)
