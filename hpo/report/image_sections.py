"""The section about the data: classes, counts, examples, split, what was left out.

Sections that need the images: where the model looks, and what throws it off.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hpo.corruptions import CORRUPTIONS
from hpo.data import Dataset, Part
from hpo.errors import HpoError
from hpo.evaluation.corrupted_copy import CorruptedCopy, corrupted_copy
from hpo.evaluation.metrics import wilson
from hpo.report import model_figures as figures_model
from hpo.report import pictures, wording
from hpo.report.model_data import ModelWithData
from hpo.report.model_figures import Severity
from hpo.report.page import Section

MOST_UNREADABLE = 10


def data_section(
    classes: Sequence[str], counts: Mapping[str, int], split: str, support: Mapping[str, int], dataset: Dataset | None
) -> Section:
    """`counts` are images by part, `support` validation images by class; `dataset` adds what only images show."""
    return Section(
        "data", "The data",
        {
            "facts": _facts(classes, counts, split, dataset),
            "rows": _rows(classes, support, dataset),
            "unreadable": list(dataset.unreadable[:MOST_UNREADABLE]) if dataset else [],
            "more_unreadable": max(0, len(dataset.unreadable) - MOST_UNREADABLE) if dataset else 0,
            "with_images": dataset is not None,
        },
    )  # fmt: skip


def _facts(
    classes: Sequence[str], counts: Mapping[str, int], split: str, dataset: Dataset | None
) -> list[tuple[str, str]]:  # fmt: skip
    words = {"train": "train", "val": "validation", "test": "test, locked"}
    parts = ", ".join(f"{count:,} {words.get(name, name)}" for name, count in counts.items() if count)
    facts = [
        ("classes", f"{len(classes):,}"),
        ("images", f"{sum(counts.values()):,}: {parts}" if counts else "not recorded"),
        ("split", split),
    ]
    if dataset is None:
        return facts
    leak = f", {dataset.leaking:,} of them on two sides of the given split" if dataset.leaking else ""
    return [
        *facts,
        ("exact duplicates", f"{dataset.duplicates:,}{leak}" if dataset.duplicates else "none"),
        ("unreadable", wording.counted(len(dataset.unreadable), "image") if dataset.unreadable else "none"),
        ("shown and trained at", f"{dataset.image_size} x {dataset.image_size} pixels".replace(" x ", " × ")),
    ]


def _rows(classes: Sequence[str], support: Mapping[str, int], dataset: Dataset | None) -> list[dict[str, Any]]:
    """A row per class: its images in each part, and examples."""
    if dataset is None:
        return [
            {"name": name, "train": None, "val": support.get(name), "bar": 0.0, "images": []} for name in classes
        ]  # fmt: skip
    train = np.bincount(dataset.train.labels, minlength=len(classes)).tolist()
    val = np.bincount(dataset.val.labels, minlength=len(classes)).tolist()
    shown = pictures.examples(dataset.train, len(classes))
    most = max(train, default=0) or 1
    return [
        {"name": name, "train": train[i], "val": val[i], "bar": train[i] / most, "images": shown.get(i, [])}
        for i, name in enumerate(classes)
    ]


MOST_IMAGES = 2_000
"""Validation images that are altered; of more a fixed random choice."""

SEEN = (
    "This model has trained on these images, and is better on them than on any other. What it does with new ones is "
    "not shown: the test part stays closed."
)

TRAINED_ON = " (on images it was trained on)"
"""What the titles say where the model has trained on the images."""


def saliency_section(bench: ModelWithData | None, how: str) -> Section:
    """Where the model looks when it is right and when it is wrong; `how` is the command that has the images."""
    title = "Where the model looks" + (TRAINED_ON if bench is not None and bench.seen else "")
    if bench is None:
        return Section("saliency", title, missing=f"Needs the images: {how}")
    try:
        found = pictures.looks(bench)
    except HpoError as error:  # a backbone without a map that could be looked at
        return Section("saliency", title, missing=f"Not to be had for this model: {error}.")
    return Section("saliency", title, {"looks": found, "seen": SEEN if bench.seen else ""})


def robustness_section(bench: ModelWithData | None, how: str) -> Section:
    """Accuracy by alteration and severity."""
    title = "Robustness" + (TRAINED_ON if bench is not None and bench.seen else "")
    if bench is None:
        return Section("robustness", title, missing=f"Needs the images: {how}")
    part = _some(bench.part)
    with bench.options.counting("altering images") as progress:
        copy = corrupted_copy(part, bench.options.cache, progress=progress)
    correct = _correct(bench, copy)
    clean = float((bench.predicted == bench.part.labels).mean())
    table = severities(copy, correct)
    rows = [(name, points, _mean(points)) for name, points in table.items()]
    return Section(
        "robustness", title,
        {
            "svg": figures_model.robustness(table, clean),
            "rows": sorted(rows, key=lambda row: row[2]),
            "clean": clean,
            "overall": float(correct.mean()),
            "n": len(part),
            "of": len(bench.part),
            "seen": SEEN if bench.seen else "",
        },
    )  # fmt: skip


def severities(copy: CorruptedCopy, correct: npt.NDArray[np.bool_]) -> dict[str, list[Severity]]:
    """Alteration -> its severities with accuracy and interval; `correct` (m,) as the images of the copy are."""
    table: dict[str, list[Severity]] = {}
    for number, name in enumerate(CORRUPTIONS):
        inside = copy.alteration == number
        for severity in np.unique(copy.severity[inside]).tolist():
            rows = correct[inside & (copy.severity == severity)]
            low, high = wilson(int(rows.sum()), len(rows))
            table.setdefault(name, []).append(Severity(severity, float(rows.mean()), low, high, len(rows)))
    return table


def _correct(bench: ModelWithData, copy: CorruptedCopy) -> npt.NDArray[np.bool_]:
    """(m,) whether the model is right about each image of the copy."""
    with bench.options.counting("altered images") as progress:
        logits = bench.model.logits_of(copy.batches(bench.options.batch_size, progress))
    right: npt.NDArray[np.bool_] = logits.argmax(axis=1) == copy.labels
    return right


def _mean(points: list[Severity]) -> float:
    return sum(point.accuracy * point.n for point in points) / sum(point.n for point in points)


def _some(part: Part) -> Part:
    """The part, or MOST_IMAGES of it, the same every time."""
    if len(part) <= MOST_IMAGES:
        return part
    rows = np.sort(np.random.default_rng(0).permutation(len(part))[:MOST_IMAGES])
    return Part(part.images, part.indices[rows], part.labels[rows], [part.names[row] for row in rows])
