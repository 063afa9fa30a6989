"""A heat map laid over its image.

What is told of one image: the image, its heat map, and what the model takes it for.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from hpo.bundle.inputs import Prediction
from hpo.bundle.model import Model
from hpo.data.dataset import Images
from hpo.errors import UsageError
from hpo.explain.mask import Heat
from hpo.explain.methods import Method
from hpo.explain.saliency import (
    Saliency,
)

OPAQUE = 0.6
"""How much of the image the hottest colour covers."""


def overlay(image: Images, heat: Heat) -> Images:
    """(S, S, 3) uint8 RGB: `image` (S, S, 3) uint8 under the colours of `heat` (S, S) in [0, 1].

    What is cold is clear, so that an image without any heat stays as it is.
    """
    levels = np.round(255 * np.clip(heat, 0, 1)).astype(np.uint8)
    colours = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB)
    share = OPAQUE * np.clip(heat, 0, 1)[..., None]
    mixed: Images = np.round((1 - share) * image + share * colours).astype(np.uint8)
    return mixed


@dataclass(frozen=True)
class Card:
    """An image and the evidence for one class in it."""

    image: Images
    """(S, S, 3) uint8."""
    heat: Heat
    """(S, S) float32 in [0, 1]."""
    title: str
    lines: tuple[str, ...]
    """What is said under the pictures."""

    @property
    def empty(self) -> bool:
        """Whether nothing in the image speaks for the class."""
        return not self.heat.any()


@dataclass(frozen=True)
class Explanation:
    """Cards, and how their heat came to be."""

    cards: tuple[Card, ...]
    method: str


def explain(
    model: Model, names: Sequence[str], images: Images, *, target: str | None = None, method: Method = "auto"
) -> Explanation:
    """A card for each of `images` (n, S, S, 3) uint8: evidence for the class `target`, or for what each is taken for.

    Raises UsageError for a target that is none of the model's classes, ModelError as `saliency` does.
    """
    position = class_position(model.classes, target) if target is not None else None
    predictions = model.predict(images)
    classes = [one.index if position is None else position for one in predictions]
    explainer = Saliency.of(model.networks, model.image_size, model.device, method)
    heats = explainer(images, classes)
    cards = tuple(
        Card(image, heat, name, _lines(prediction, target, empty=not heat.any()))
        for name, image, heat, prediction in zip(names, images, heats, predictions, strict=True)
    )
    return Explanation(cards, explainer.method)


def class_position(classes: Sequence[str], name: str) -> int:
    """Of the class `name`; UsageError where there is no such."""
    if name in classes:
        return classes.index(name)
    near = difflib.get_close_matches(name, classes, n=3, cutoff=0.5)
    raise UsageError(f"--target is {name!r}, but must be one of the model's classes: {', '.join(near or classes)}")


def _lines(prediction: Prediction, target: str | None, *, empty: bool) -> tuple[str, ...]:
    said = [f"{prediction.label}  {prediction.probability:.3f}"]
    if target is not None:
        said.append(f"heat for {target}  {prediction.probabilities[target]:.3f}")
    if empty:
        said.append("no heat: nothing speaks for it")
    return tuple(said)
