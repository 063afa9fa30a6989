"""Images of another laboratory, on which compared models are measured beside their own data.

Such a set often has only some of the classes, under other names, from another stain, camera and magnification. All of
its images are taken, whatever parts it has, except those that took part in making a model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hpo.bundle.evaluate import without_known
from hpo.bundle.measurement import measure
from hpo.bundle.model import Model
from hpo.data import Progress, open_whole
from hpo.data.opening import open_source
from hpo.data.relabelling import check_names, missing_line
from hpo.errors import DataError
from hpo.evaluation.metrics import Report


@dataclass(frozen=True)
class OtherData:
    """Labelled images that no compared model was made with."""

    path: Path
    renamed: Mapping[str, str] = field(default_factory=dict)
    """Their classes by the models' names for them, as `open_whole` takes it."""

    def check(self, known: Sequence[str]) -> None:
        """Raise DataError, from the listing alone, for classes that models of the classes `known` do not know."""
        listing = open_source(self.path).listing()
        there = set(listing.labels.tolist())
        used = [name for number, name in enumerate(listing.classes) if number in there]
        check_names(listing.classes, used, known, self.renamed, str(self.path))

    def measure(self, model: Model, cache: Path, progress: Progress | None) -> tuple[Report, tuple[str, ...]]:
        """Measure `model` on all images that took no part in making it; return the report, and what to know of it.

        Raise DataError where nothing is left, and for images of the locked test part of the model's own data.
        """
        whole = open_whole(
            self.path, image_size=model.image_size, cache=cache, classes=model.classes, renamed=self.renamed,
            white_level=model.white_level, progress=progress,
        )  # fmt: skip
        part, overlap = without_known(whole.part, model.bundle.known, self.path)
        if overlap.tests:
            raise DataError(
                f"{_images(overlap.tests)} of {self.path} {'is' if overlap.tests == 1 else 'are'} of the locked test "
                "part of the model's own data; give images of another laboratory, or open the test part by --test"
            )
        counts = np.bincount(part.labels, minlength=len(model.classes)).tolist()
        are = "is" if overlap.left_out == 1 else "are"
        left_out = f"{_images(overlap.left_out)} took part in making the model and {are} left out"
        left_out *= bool(overlap.left_out)
        notes = [*whole.notes, left_out, missing_line(model.classes, counts)]
        return measure(model, part, progress=progress).report, tuple(f"{self.path}: {note}" for note in notes if note)


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count:,} images"
