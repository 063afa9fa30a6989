"""How the images of a comparison are split: by the options, or as for the bundles that are compared.

Images a second at inference, with warm-up, as the median over repeats.

The bench: the same images, machine and rules for every model that is measured on it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hpo.bundle.access_ledger import AccessCounts, AccessLedger
from hpo.bundle.bundle import read_bundle
from hpo.bundle.evaluate import without_known
from hpo.bundle.manifest import Manifest
from hpo.bundle.measurement import measure
from hpo.bundle.model import BATCH_SIZE, Model
from hpo.bundle.own_data import refuse_other_data
from hpo.bundle.stored_metrics import new_opening, openings_of
from hpo.data import DataOrigin, Dataset, ImageDigests, Part, Progress, SplitOptions, open_dataset
from hpo.evaluation.corrupted_copy import CorruptedCopy, corrupted_copy
from hpo.evaluation.intervals import Score, clustered

if TYPE_CHECKING:
    from hpo.bundle.manifest import Manifest
    from hpo.bundle.model import Model


UNREADABLE = 0.05
"""Share of images that may be unreadable where neither options nor bundles say."""


def common_split(origins: Sequence[DataOrigin], **given: Any) -> SplitOptions:
    """What is given and not None; for the rest that of the first bundle, and without one the usual."""
    usual = origins[0].options if origins else SplitOptions()
    return replace(usual, **_said(given))


def common_unreadable(origins: Sequence[DataOrigin], given: float | None = None) -> float:
    """The share of images that may be unreadable: as given, else as for the first bundle, else the usual."""
    if given is not None:
        return given
    return origins[0].max_unreadable if origins else UNREADABLE


def check_basis(
    label: str, manifest: Manifest, dataset: Dataset, path: Path, options: SplitOptions | None = None
) -> None:
    """DataError unless `label` was made with the images of `dataset`, which lie at `path`, and the same split.

    `options` are those that the data set was opened with; None means those of the bundle.
    """
    way_out = "give the data that it was made with"
    refuse_other_data(manifest, dataset, path, maker=label, way_out=way_out, options=options)


def _said(given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if value is not None}


BATCHES = (1, 64)
"""Images at a time: one that somebody waits for, and many."""


@dataclass(frozen=True)
class Timing:
    """How long something is measured."""

    warmup: int = 3
    """Calls before the first that counts."""
    seconds: float = 1.0
    """Calls that count, together."""
    least: int = 5
    """Calls that count, however long they take."""
    most: int = 1000


def images_per_second(model: Model, images: npt.NDArray[np.uint8], batch: int, timing: Timing | None = None) -> float:
    """From (n, S, S, 3) uint8 in memory to logits in memory, float32; `images` are taken again where they are fewer.

    Decoding is not counted: it is the same for all models. Copying to a device and back is.
    """
    rows = np.resize(np.arange(len(images)), batch)
    shown = np.ascontiguousarray(images[rows])
    return batch / seconds_per_call(lambda: model.logits_of([shown]), timing or Timing())


def seconds_per_call(call: Callable[[], object], timing: Timing) -> float:
    """Median over the calls that count."""
    for _ in range(timing.warmup):
        call()
    taken: list[float] = []
    while len(taken) < timing.most and (len(taken) < timing.least or sum(taken) < timing.seconds):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return median(taken)


COMMAND = "compare"


@dataclass(frozen=True)
class Measured:
    """What one model did on the bench."""

    validation: Score | None
    """None of a model that has trained on these images; `macro_f1` and `corrupted` then are too."""
    macro_f1: float | None
    corrupted: Score | None
    conditions: Mapping[str, Mapping[int, float]]
    """Accuracy on the corrupted copy by alteration and severity."""
    test: Score | None
    accesses: AccessCounts | None
    """All accesses to this test part by now; None where it stays locked."""

    @property
    def openings(self) -> int:
        """How often the test part has been opened by now, with whichever model; 0 where it stays locked."""
        return self.accesses.count if self.accesses else 0


@dataclass(frozen=True)
class Benchmark:
    """Where models are measured; images are packed and altered once for each image size and white level."""

    data: Path
    split: SplitOptions
    max_unreadable: float
    cache: Path
    device: str
    test: bool = False
    """Whether the test part is opened, once for every model, however often it is compared."""
    ledger: AccessLedger = field(default_factory=AccessLedger)
    """Where test accesses are recorded, beside the bundles."""
    timing: Timing = field(default_factory=Timing)
    progress: Progress | None = None
    _datasets: dict[tuple[int, int | None], Dataset] = field(default_factory=dict)
    _copies: dict[tuple[int, int | None], CorruptedCopy] = field(default_factory=dict)
    _images: list[ImageDigests] = field(default_factory=list)

    def dataset(self, image_size: int, white: int | None = None) -> Dataset:
        """The data, packed at `image_size` pixels, 16-bit images by the white level of a model."""
        if (image_size, white) not in self._datasets:
            self._datasets[image_size, white] = open_dataset(
                self.data, image_size=image_size, cache=self.cache, split=self.split,
                max_unreadable=self.max_unreadable, white_level=white, progress=self.progress,
            )  # fmt: skip
        return self._datasets[image_size, white]

    def check(self, label: str, manifest: Manifest) -> None:
        """DataError unless the model was made with these images, split as here."""
        check_basis(
            label, manifest, self.dataset(manifest.preprocessing.image_size, manifest.data.white), self.data, self.split
        )

    def measure(self, folder: Path) -> Measured:
        """Measure the bundle in `folder`; a look at the test part is recorded in it."""
        model = Model(read_bundle(folder), self.device)
        dataset = self.dataset(model.image_size, model.white_level)
        unseen = model.bundle.manifest.stage != "retrained"
        report = measure(model, dataset.val, progress=self.progress).report if unseen else None
        corrupted, conditions = self.robustness(model) if unseen else (None, {})
        test, accesses = self._test(model, dataset)
        return Measured(
            validation=Score.of(report.accuracy, report.n) if report else None,
            macro_f1=report.macro_f1 if report else None,
            corrupted=corrupted,
            conditions=conditions,
            test=test,
            accesses=accesses,
        )

    def speed(self, folder: Path) -> dict[int, float]:
        """Images a second by the number of images at a time."""
        model = Model(read_bundle(folder), self.device)
        part = self.dataset(model.image_size, model.white_level).val
        images = part.batch(np.arange(min(len(part), max(BATCHES))))
        return {batch: images_per_second(model, images, batch, self.timing) for batch in BATCHES}

    def robustness(self, model: Model) -> tuple[Score, dict[str, dict[int, float]]]:
        """Accuracy on the corrupted copy of the validation part: in all, and by alteration and severity."""
        part = self.dataset(model.image_size, model.white_level).val
        copy = self._copy(model, part)
        correct = model.logits_of(copy.batches(BATCH_SIZE)).argmax(axis=1) == copy.labels
        conditions: dict[str, dict[int, float]] = {}
        for found in copy.by_condition(correct):
            conditions.setdefault(found.corruption, {})[found.severity] = found.accuracy
        originals = np.arange(len(copy)) % len(part)
        return clustered(correct, originals), conditions

    def _copy(self, model: Model, part: Part) -> CorruptedCopy:
        """The corrupted copy of `part`, whose pixels depend on the model's image size and white level."""
        key = (model.image_size, model.white_level)
        if key not in self._copies:
            self._copies[key] = corrupted_copy(part, self.cache, progress=self.progress)
        return self._copies[key]

    def _test(self, model: Model, dataset: Dataset) -> tuple[Score | None, AccessCounts | None]:
        """What a look at the test part gave: an earlier comparison's where there is one, else a new one, on record."""
        known = self._known(dataset)
        if not self.test or not known.test_digest:
            return None, None
        bundle = model.bundle
        part, _ = without_known(dataset.open_test(), known, self.data)
        opening = new_opening(
            COMMAND, dataset.fingerprint, len(part), test=known.test_digest, model=bundle.model_digest
        )
        earlier = [one for one in openings_of(bundle.path) if _answers(one, opening)]
        if earlier:
            return Score.of(earlier[-1]["accuracy"], opening["n"]), self.ledger.counts(bundle.path, opening)
        accesses = self.ledger.begin(bundle.path, opening)
        found = measure(model, part, progress=self.progress).report
        self.ledger.end(bundle.path, opening, found.accuracy)
        return Score.of(found.accuracy, found.n), accesses

    def _known(self, dataset: Dataset) -> ImageDigests:
        """The images that every model here was made with, which `check` has seen to."""
        if not self._images:
            self._images.append(ImageDigests.of(dataset))
        return self._images[0]


def _answers(one: Mapping[str, Any], opening: Mapping[str, Any]) -> bool:
    """Whether a recorded look is what `opening` would be, and has come to its end."""
    same = all(one.get(key) == opening[key] for key in ("command", "n", "test", "model"))
    return same and one.get("accuracy") is not None
