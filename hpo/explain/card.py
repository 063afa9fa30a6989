"""Explanations of single images: the image, its heat map, the prediction; and the sheet that shows them."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from hpo.bundle.inputs import Prediction
from hpo.bundle.model import Model
from hpo.data.dataset import Images
from hpo.errors import UsageError
from hpo.explain.mask import Heat
from hpo.explain.methods import Method
from hpo.explain.saliency import Saliency
from hpo.figures.contact_sheet import SheetCard, card_sheet

OPAQUE = 0.6
"""Opacity of the hottest colour."""

NAMED = 20
"""The number of classes that a message names."""


@dataclass(frozen=True)
class Card:
    """An image and the evidence for one class in it."""

    image: Images
    """(S, S, 3) uint8."""
    heat: Heat
    """(S, S) float32 in [0, 1]."""
    title: str
    lines: tuple[str, ...]
    """Text below the pictures."""

    @property
    def empty(self) -> bool:
        """Whether there is no evidence for the class in the image."""
        return not self.heat.any()


@dataclass(frozen=True)
class Explanation:
    """Cards, and the method that computed their heat maps."""

    cards: tuple[Card, ...]
    method: str


def explain(
    model: Model, names: Sequence[str], images: Images, *, target: str | None = None, method: Method = "auto"
) -> Explanation:
    """Return a card for each of `images` (n, S, S, 3) uint8: the evidence for `target`, or for each predicted class.

    Raises UsageError if the model has no class `target`, ModelError as `saliency` does.
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
    """Return the position of the class `name`; raise UsageError if there is none."""
    if name in classes:
        return classes.index(name)
    near = difflib.get_close_matches(name, classes, n=1, cutoff=0.5)
    suggestion = f"; did you mean {near[0]}?" if near else ""
    more = f" and {len(classes) - NAMED} more" if len(classes) > NAMED else ""
    raise UsageError(
        f"--target is {name!r}, but must be one of the model's {len(classes)} classes, "
        f"{', '.join(classes[:NAMED])}{more}{suggestion}"
    )


def _lines(prediction: Prediction, target: str | None, *, empty: bool) -> tuple[str, ...]:
    lines = [f"{prediction.label}  {prediction.probability:.3f}"]
    if target is not None:
        lines.append(f"heat for {target}  {prediction.probabilities[target]:.3f}")
    if empty:
        lines.append("no heat: no evidence for it")
    return tuple(lines)


def draw_cards(cards: Sequence[Card], title: str) -> Image.Image:
    """Return an RGB picture of all `cards` below `title`, each image beside its heat map."""
    return card_sheet(
        title, [SheetCard((card.image, overlay(card.image, card.heat)), card.lines, card.title) for card in cards]
    )


def overlay(image: Images, heat: Heat) -> Images:
    """Return (S, S, 3) uint8 RGB: `image` (S, S, 3) uint8 blended with the colours of `heat` (S, S) in [0, 1].

    The opacity grows with the heat, so that an image without any heat is unchanged.
    """
    levels = np.round(255 * np.clip(heat, 0, 1)).astype(np.uint8)
    colours = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB)
    share = OPAQUE * np.clip(heat, 0, 1)[..., None]
    mixed: Images = np.round((1 - share) * image + share * colours).astype(np.uint8)
    return mixed
