"""Classify any number of images, a batch in memory at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hpo.data import Images, Unreadable, iter_images
from hpo.delivery.model import BATCH_SIZE, Model
from hpo.delivery.output import open_output
from hpo.delivery.prediction import Prediction, predictions
from hpo.delivery.tta import Tta
from hpo.errors import DataError, UsageError


@dataclass(frozen=True)
class Counts:
    """What became of the images."""

    predicted: int = 0
    """Those that abstained among them."""
    unreadable: int = 0
    abstained: int = 0

    def plus(self, predicted: int, unreadable: int, abstained: int) -> Counts:
        """The counts after one more batch."""
        return Counts(self.predicted + predicted, self.unreadable + unreadable, self.abstained + abstained)


@dataclass(frozen=True)
class Answering:
    """How an image is answered."""

    tta: Tta = "none"
    """Views over which the calibrated probabilities are averaged."""
    threshold: float = 0.0
    """Probability below which the model abstains."""


PLAIN = Answering()


def predict(
    model: Model,
    source: Path,
    out: str,
    *,
    answering: Answering = PLAIN,
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
            found = _answered(model, names, images, answering) if names else []
            for prediction in found:
                writer.write(prediction)
            for image in unreadable:
                writer.write_unreadable(image)
                on_unreadable(image)
            counts = counts.plus(len(found), len(unreadable), sum(one.abstained for one in found))
            progress(counts.predicted + counts.unreadable)
        _refuse_nothing(counts, source)
    return counts


def _answered(model: Model, names: list[str], images: Images, answering: Answering) -> list[Prediction]:
    probabilities = model.probabilities_of([images], answering.tta)
    return predictions(names, probabilities, model.classes, answering.threshold)


def _refuse_nothing(counts: Counts, source: Path) -> None:
    if not counts.predicted:
        raise DataError(f"none of the {counts.unreadable} images in {source} could be read; give images that can")
