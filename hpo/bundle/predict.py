"""Classify any number of images, with one batch in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpo.bundle.inputs import Prediction, predictions
from hpo.bundle.model import BATCH_SIZE, Model, Tta
from hpo.bundle.output import Writer, open_output
from hpo.data import Images, PathList, Unreadable, iter_images
from hpo.errors import DataError, UsageError
from hpo.evaluation.conformal import SetRule


@dataclass(frozen=True)
class Counts:
    """Counts of images by their outcome."""

    predicted: int = 0
    """Images with a prediction, abstentions included."""
    unreadable: int = 0
    abstained: int = 0
    in_sets: int = 0
    """Classes in the sets of all images together; 0 without sets."""

    def plus(self, found: Sequence[Prediction], unreadable: int) -> Counts:
        """Return the counts after one more batch."""
        return Counts(
            self.predicted + len(found),
            self.unreadable + unreadable,
            self.abstained + sum(one.abstained for one in found),
            self.in_sets + sum(len(one.prediction_set or ()) for one in found),
        )


@dataclass(frozen=True)
class PredictOptions:
    """Options of a prediction."""

    tta: Tta = "none"
    """Views over which the calibrated probabilities are averaged."""
    threshold: float = 0.0
    """Probability below which the model abstains."""
    sets: SetRule | None = None
    """Which classes are in the set of an image; None for no sets."""


PLAIN = PredictOptions()


def predict(
    model: Model,
    sources: Path | Sequence[Path | PathList],
    out: str,
    *,
    options: PredictOptions = PLAIN,
    batch_size: int = BATCH_SIZE,
    progress: Callable[[int], None] = lambda done: None,
    on_unreadable: Callable[[Unreadable], None] = lambda _: None,
) -> Counts:
    """Classify every image that `iter_images` finds in `sources` and write a row for each to `out`, in its order.

    `out` is as in `open_output`. `progress` gets the number of images done after each batch. A file that gives no image
    goes to `on_unreadable` and, as a row with an `error` in its place, to `out`; DataError when no file gives one.
    """
    if batch_size < 1:
        raise UsageError(f"--batch-size is {batch_size}, but must be at least 1")
    counts = Counts()
    with open_output(out, model.classes, sets=options.sets is not None) as writer:
        for names, images, skipped in iter_images(sources, model.image_size, batch_size, model.white_level):
            found = _predict_batch(model, names, images, options) if names else []
            start = 0
            for image in skipped:
                _write(writer, found[start : image.after])
                start = image.after
                writer.write_unreadable(image)
                on_unreadable(image)
            _write(writer, found[start:])
            counts = counts.plus(found, len(skipped))
            progress(counts.predicted + counts.unreadable)
        if not counts.predicted:
            raise DataError(f"none of the {counts.unreadable} images could be read; give images that can")
    return counts


def _predict_batch(model: Model, names: list[str], images: Images, options: PredictOptions) -> list[Prediction]:
    probabilities = model.probabilities_of([images], options.tta)
    return predictions(names, probabilities, model.classes, options.threshold, options.sets)


def _write(writer: Writer, found: Sequence[Prediction]) -> None:
    for prediction in found:
        writer.write(prediction)
