"""The benchmark of a comparison: every model is measured on the same images, on the same machine, by the same rules."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from hpo.bundle.access_ledger import AccessCounts, AccessLedger
from hpo.bundle.bundle import read_bundle
from hpo.bundle.corrupted_measurement import FAMILIES
from hpo.bundle.evaluate import without_known
from hpo.bundle.manifest import Manifest
from hpo.bundle.measurement import measure
from hpo.bundle.model import BATCH_SIZE, Model
from hpo.bundle.own_data import refuse_other_data
from hpo.bundle.set_coverage import keep_test
from hpo.bundle.stored_metrics import new_opening, openings_of
from hpo.corruption_family import CorruptionFamily, FamilyName
from hpo.corruptions import SEEN
from hpo.data import DataOrigin, Dataset, ImageDigests, Part, Progress, SplitOptions, open_dataset
from hpo.data.changes import DataChanges
from hpo.evaluation.corrupted_copy import CorruptedCopy, corrupted_copy
from hpo.evaluation.intervals import Score
from hpo.evaluation.metrics import Report
from hpo.evaluation.robustness import FamilyScore, sample_of
from hpo.experiments.other_data import OtherData

BATCHES = (1, 64)
"""Images at a time when speed is measured: the latency of one image, and the throughput of many."""

COMMAND = "compare"
"""The command in records of test access."""


def common_split(origins: Sequence[DataOrigin], **given: Any) -> SplitOptions:
    """Return the split settings that are given and not None, completed by those of the first bundle or the defaults."""
    base = origins[0].options if origins else SplitOptions()
    return replace(base, **{name: value for name, value in given.items() if value is not None})


def common_changes(origins: Sequence[DataOrigin]) -> DataChanges | None:
    """Return the decisions on single images of the first bundle; None without a bundle."""
    return origins[0].changes if origins else None


@dataclass(frozen=True)
class Timing:
    """How long a speed is measured."""

    warmup: int = 3
    """Calls that are not timed."""
    seconds: float = 1.0
    """Total duration of the timed calls."""
    least: int = 5
    """Fewest timed calls, however long they take."""
    most: int = 1000
    """Most timed calls."""


@dataclass(frozen=True)
class Measured:
    """The results of one model."""

    validation: Score | None
    """None if the model has trained on these images; `macro_f1` is None and `families` is empty then, too."""
    macro_f1: float | None
    families: Mapping[FamilyName, FamilyScore]
    """The validation part under the corruptions that a search may see, and under those that none sees."""
    other: Report | None
    """On the images of another laboratory; None where none are given."""
    other_notes: tuple[str, ...]
    test: Score | None
    accesses: AccessCounts | None
    """All accesses to this test part so far; None if it stays locked."""

    @property
    def openings(self) -> int:
        """How often the test part has been opened so far, with any model; 0 if it stays locked."""
        return self.accesses.count if self.accesses else 0


@dataclass(frozen=True)
class Benchmark:
    """The data on which models are measured, packed and corrupted once for each image size and white level."""

    data: Path
    split: SplitOptions
    cache: Path
    device: str
    changes: DataChanges | None = None
    """The decisions on single images that are applied; None for none."""
    test: bool = False
    """Whether the test part is opened, once for every model, however often it is compared."""
    ledger: AccessLedger = field(default_factory=AccessLedger)
    """Where test accesses are recorded, beside the bundles."""
    other: OtherData | None = None
    """Images of another laboratory, on which every model is measured too."""
    timing: Timing = field(default_factory=Timing)
    progress: Progress | None = None
    _datasets: dict[tuple[int, int | None], Dataset] = field(default_factory=dict)
    _copies: dict[tuple[FamilyName, int, int | None], CorruptedCopy] = field(default_factory=dict)
    _images: list[ImageDigests] = field(default_factory=list)

    def dataset(self, image_size: int, white: int | None = None) -> Dataset:
        """Return the data, packed at `image_size` pixels, with 16-bit images scaled by the white level of a model."""
        if (image_size, white) not in self._datasets:
            self._datasets[image_size, white] = open_dataset(
                self.data, image_size=image_size, cache=self.cache, split=self.split,
                white_level=white, changes=self.changes, progress=self.progress,
            )  # fmt: skip
        return self._datasets[image_size, white]

    def check(self, label: str, manifest: Manifest) -> None:
        """Raise DataError unless the model was made with these images and this split."""
        dataset = self.dataset(manifest.preprocessing.image_size, manifest.data.white)
        way_out = "give the data that it was made with"
        refuse_other_data(manifest, dataset, self.data, maker=label, way_out=way_out, options=self.split)

    def measure(self, folder: Path) -> Measured:
        """Measure the bundle in `folder`; an access to the test part is recorded in it."""
        model = Model(read_bundle(folder), self.device)
        dataset = self.dataset(model.image_size, model.white_level)
        unseen = model.bundle.manifest.stage != "retrained"
        report = measure(model, dataset.val, progress=self.progress).report if unseen else None
        families = {one.name: self.measure_robustness(model, one) for one in FAMILIES} if unseen else {}
        other, other_notes = self.other.measure(model, self.cache, self.progress) if self.other else (None, ())
        test, accesses = self._measure_test(model, dataset)
        return Measured(
            validation=Score.of(report.accuracy, report.n) if report else None,
            macro_f1=report.macro_f1 if report else None,
            families=families,
            other=other,
            other_notes=other_notes,
            test=test,
            accesses=accesses,
        )

    def measure_robustness(self, model: Model, family: CorruptionFamily = SEEN) -> FamilyScore:
        """Measure the accuracy on the validation part, or on a sample of a large one, under a family of corruptions."""
        part = self.dataset(model.image_size, model.white_level).val
        copy = self._copy(model, sample_of(part), family)
        return FamilyScore.of(family, copy, model.logits_of(copy.batches(BATCH_SIZE)).argmax(axis=1) == copy.labels)

    def _copy(self, model: Model, part: Part, family: CorruptionFamily) -> CorruptedCopy:
        """Return the corrupted copy of `part`, whose pixels depend on the model's image size and white level."""
        key = (family.name, model.image_size, model.white_level)
        if key not in self._copies:
            self._copies[key] = corrupted_copy(part, self.cache, family=family, progress=self.progress)
        return self._copies[key]

    def _measure_test(self, model: Model, dataset: Dataset) -> tuple[Score | None, AccessCounts | None]:
        """Measure the model on the test part, or return the result that an earlier comparison recorded."""
        known = self._known_images(dataset)
        if not self.test or not known.test_digest:
            return None, None
        bundle = model.bundle
        part, _ = without_known(dataset.open_test(), known, self.data)
        opening = new_opening(
            COMMAND, dataset.fingerprint, len(part), test=known.test_digest, model=bundle.model_digest
        )
        earlier = [one for one in openings_of(bundle.path) if _is_finished_access(one, opening)]
        if earlier:
            return Score.of(earlier[-1]["accuracy"], opening["n"]), self.ledger.counts(bundle.path, opening)
        accesses = self.ledger.begin(bundle.path, opening)
        found = measure(model, part, progress=self.progress)
        self.ledger.end(bundle.path, opening, found.report.accuracy)
        keep_test(bundle, known.test_digest, found.predicted, None)
        return Score.of(found.report.accuracy, found.report.n), accesses

    def _known_images(self, dataset: Dataset) -> ImageDigests:
        """Return the images that every model here was made with, as `check` makes sure."""
        if not self._images:
            self._images.append(ImageDigests.of(dataset))
        return self._images[0]

    def measure_speed(self, folder: Path) -> dict[int, float]:
        """Measure images per second by the number of images at a time."""
        model = Model(read_bundle(folder), self.device)
        part = self.dataset(model.image_size, model.white_level).val
        images = part.batch(np.arange(min(len(part), max(BATCHES))))
        return {batch: images_per_second(model, images, batch, self.timing) for batch in BATCHES}


def _is_finished_access(one: Mapping[str, Any], opening: Mapping[str, Any]) -> bool:
    """Return whether a recorded test access is of the same kind as `opening` and has a result."""
    same = all(one.get(key) == opening[key] for key in ("command", "n", "test", "model"))
    return same and one.get("accuracy") is not None


def images_per_second(model: Model, images: npt.NDArray[np.uint8], batch: int, timing: Timing | None = None) -> float:
    """Measure the speed from (n, S, S, 3) uint8 in memory to float32 logits in memory; images repeat if n < `batch`.

    Copies to a device and back are included; decoding is not, since it is the same for all models.
    """
    rows = np.resize(np.arange(len(images)), batch)
    shown = np.ascontiguousarray(images[rows])
    return batch / seconds_per_call(lambda: model.logits_of([shown]), timing or Timing())


def seconds_per_call(call: Callable[[], object], timing: Timing) -> float:
    """Measure the median duration of the timed calls."""
    for _ in range(timing.warmup):
        call()
    taken: list[float] = []
    while len(taken) < timing.most and (len(taken) < timing.least or sum(taken) < timing.seconds):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return median(taken)
