"""A model with the images that it may be shown and tested on: train and validation, never the locked test part."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hpo.data import Dataset, Images, Part, Progress
from hpo.delivery.bundle import Bundle
from hpo.delivery.evaluate import reopen_same
from hpo.delivery.manifest import Manifest
from hpo.delivery.model import Model
from hpo.evaluation.calibration import Probabilities, probabilities

Counting = Callable[[str], AbstractContextManager[Progress | None]]
"""From what is counted to who hears of (done, total)."""


@dataclass(frozen=True)
class Options:
    """How a report is made."""

    cache: Path
    device: str = "auto"
    batch_size: int = 256
    """Images in memory at a time."""
    counting: Counting = lambda _: nullcontext()


@dataclass(frozen=True)
class Bench:
    """A loaded bundle, its data set, and its present predictions on the validation part."""

    model: Model
    dataset: Dataset
    options: Options

    @classmethod
    def of(cls, bundle: Bundle, data: Path, options: Options) -> Bench:
        """The bench for `bundle` and the data that it was made with; DataError for any other."""
        return cls(Model(bundle, options.device), open_data(bundle.manifest, data, options), options)

    @property
    def part(self) -> Part:
        """The validation part."""
        return self.dataset.val

    @property
    def seen(self) -> bool:
        """Whether the model has trained on the validation part."""
        return self.model.bundle.manifest.stage == "retrained"

    @cached_property
    def probabilities(self) -> Probabilities:
        """(n_val, C) float64: calibrated, of the model as it is now."""
        with self.options.counting("validation images") as progress:
            logits = self.model.logits_of(batches(self.part, self.options.batch_size, progress))
        return probabilities(logits, self.model.temperature)

    @property
    def predicted(self) -> npt.NDArray[np.int64]:
        """(n_val,) class numbers."""
        numbers: npt.NDArray[np.int64] = self.probabilities.argmax(axis=1)
        return numbers


def open_data(manifest: Manifest, data: Path, options: Options) -> Dataset:
    """`data` split as the bundle's was; DataError where it is other data."""
    with options.counting("decoding images") as progress:
        return reopen_same(
            manifest, data, options.cache, progress, maker="the model",
            way_out="give the same data, or leave --data out",
        )  # fmt: skip


def batches(part: Part, size: int, progress: Progress | None) -> Iterator[Images]:
    """The images of `part` in order, `size` at a time, as (b, S, S, 3) uint8."""
    for start in range(0, len(part), size):
        rows = np.arange(start, min(start + size, len(part)))
        yield part.batch(rows)
        if progress is not None:
            progress(int(rows[-1]) + 1, len(part))
