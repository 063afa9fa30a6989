"""Classify any number of images, a batch in memory at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hpo.data import Unreadable, iter_images
from hpo.delivery.model import BATCH_SIZE, Model
from hpo.delivery.output import open_output
from hpo.errors import DataError, UsageError


@dataclass(frozen=True)
class Counts:
    """How many images were predicted, and how many could not be read."""

    predicted: int = 0
    unreadable: int = 0

    def plus(self, predicted: int, unreadable: int) -> Counts:
        """The counts after one more batch."""
        return Counts(self.predicted + predicted, self.unreadable + unreadable)


def predict(
    model: Model,
    source: Path,
    out: str,
    *,
    batch_size: int = BATCH_SIZE,
    progress: Callable[[int], None] = lambda done: None,
    on_unreadable: Callable[[Unreadable], None] = lambda _: None,
) -> Counts:
    """Classify every image under `source` (a folder, an image, a zip or an .npz) and write them to `out`.

    `out` is what `open_output` takes. `progress` gets the images done after each batch. An image that could not be
    read goes to `on_unreadable` and, as an entry with an `error`, to `out`; DataError when none could be.
    """
    if batch_size < 1:
        raise UsageError(f"--batch-size is {batch_size}, but must be at least 1")
    counts = Counts()
    with open_output(out, model.classes) as writer:
        for names, images, unreadable in iter_images(source, model.image_size, batch_size):
            if len(names):
                for prediction in model.name_classes(names, model.logits_of([images])):
                    writer.write(prediction)
            for image in unreadable:
                writer.write_unreadable(image)
                on_unreadable(image)
            counts = counts.plus(len(names), len(unreadable))
            progress(counts.predicted + counts.unreadable)
        _refuse_nothing(counts, source)
    return counts


def _refuse_nothing(counts: Counts, source: Path) -> None:
    if not counts.predicted:
        raise DataError(f"none of the {counts.unreadable} images in {source} could be read; give images that can")
