"""Sections that are better with images, or need them: the data, saliency, robustness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hpo.data import Dataset, Part
from hpo.data.changes import DataChanges
from hpo.data.names import shortened
from hpo.errors import HpoError
from hpo.evaluation.corrupted_copy import Condition, CorruptedCopy, corrupted_copy
from hpo.report import model_figures, pictures, wording
from hpo.report.model_data import ModelWithData
from hpo.report.page import Section

MOST_UNREADABLE = 10

MOST_NAMED = 5
"""Files that are named of those that were left out for one finding."""

MOST_IMAGES = 2_000
"""Validation images that are corrupted; of more, a fixed random sample is taken."""

SEEN = (
    "This model has trained on these images, so it is better on them than on others. Its accuracy on new images is not "
    "shown: the test part stays locked."
)

TRAINED_ON = " (on images it was trained on)"
"""Added to the titles if the model has trained on the images."""


def data_section(
    origin: Mapping[str, Any], support: Mapping[str, int], dataset: Dataset | None, *, openings: int = 0
) -> Section:
    """Return the section about classes, counts, split and examples.

    `origin` has the classes, the images by part and the split; `support` the validation images by class. `dataset` adds
    what only the images show. `openings` is the number of times that the model was measured on the test part.
    """
    classes: Sequence[str] = origin.get("classes", ())
    changes = DataChanges.from_json(origin.get("findings") or {})
    return Section(
        "data", "The data",
        {
            "facts": _data_rows(origin, dataset, openings),
            "rows": _class_rows(classes, support, dataset),
            "unreadable": list(dataset.unreadable[:MOST_UNREADABLE]) if dataset else [],
            "more_unreadable": max(0, len(dataset.unreadable) - MOST_UNREADABLE) if dataset else 0,
            "with_images": dataset is not None,
            "changes": changes.line() if changes else "",
            "dropped": _dropped(changes),
        },
    )  # fmt: skip


def _dropped(changes: DataChanges) -> list[tuple[str, int, str]]:
    """Return finding, number of files that were left out for it, and the first of them."""
    files: dict[str, list[str]] = {}
    for file, kind in sorted(changes.drops.items()):
        files.setdefault(kind, []).append(file)
    return [(kind, len(files[kind]), shortened(files[kind], MOST_NAMED)) for kind in changes.drop_counts()]


def _data_rows(origin: Mapping[str, Any], dataset: Dataset | None, openings: int) -> list[tuple[str, str]]:
    counts: Mapping[str, int] = origin.get("counts", {})
    opened = f"opened {'once' if openings == 1 else f'{openings} times'} for this model" if openings else "locked"
    words = {"train": "train", "val": "validation", "test": f"test, {opened}"}
    parts = ", ".join(f"{count:,} {words.get(name, name)}" for name, count in counts.items() if count)
    rows = [
        ("classes", f"{len(origin.get('classes', ())):,}"),
        ("images", f"{sum(counts.values()):,}: {parts}" if counts else "not recorded"),
        ("split", str(origin.get("split", "not recorded"))),
    ]
    if dataset is None:
        return rows
    leak = f", {dataset.leaking:,} of them on two sides of the given split" if dataset.leaking else ""
    return [
        *rows,
        ("exact duplicates", f"{dataset.duplicates:,}{leak}" if dataset.duplicates else "none"),
        ("unreadable", wording.counted(len(dataset.unreadable), "image") if dataset.unreadable else "none"),
        ("shown and trained at", f"{dataset.image_size} x {dataset.image_size} pixels".replace(" x ", " × ")),
    ]


def _class_rows(classes: Sequence[str], support: Mapping[str, int], dataset: Dataset | None) -> list[dict[str, Any]]:
    """Return a row for each class: its images in each part, and examples."""
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


def saliency_section(model: ModelWithData | None, how: str) -> Section:
    """Return the section with saliency maps of correct and wrong predictions; `how` is the command that adds images."""
    title = "Where the model looks" + (TRAINED_ON if model is not None and model.seen else "")
    if model is None:
        return Section("saliency", title, missing=f"Needs the images: {how}")
    try:
        found = pictures.saliency_examples(model)
    except HpoError as error:  # no saliency method supports this backbone
        return Section("saliency", title, missing=f"Not available for this model: {error}.")
    return Section("saliency", title, {"looks": found, "seen": SEEN if model.seen else ""})


def robustness_section(model: ModelWithData | None, how: str) -> Section:
    """Return the section with the accuracy by corruption and severity."""
    title = "Robustness" + (TRAINED_ON if model is not None and model.seen else "")
    if model is None:
        return Section("robustness", title, missing=f"Needs the images: {how}")
    part = _sample(model.part)
    with model.options.counting("corrupting images") as progress:
        copy = corrupted_copy(part, model.options.cache, progress=progress)
    conditions = _measure_conditions(model, copy)
    clean = float((model.predicted == model.part.labels).mean())
    rows = [(name, points, _mean_accuracy(points)) for name, points in conditions.items()]
    return Section(
        "robustness", title,
        {
            "svg": model_figures.robustness(conditions, clean),
            "rows": sorted(rows, key=lambda row: row[2]),
            "clean": clean,
            "overall": sum(point.correct for points in conditions.values() for point in points) / len(copy),
            "n": len(part),
            "of": len(model.part),
            "seen": SEEN if model.seen else "",
        },
    )  # fmt: skip


def _measure_conditions(model: ModelWithData, copy: CorruptedCopy) -> dict[str, list[Condition]]:
    """Return the results on the images of the copy, by corruption."""
    with model.options.counting("corrupted images") as progress:
        logits = model.model.logits_of(copy.batches(model.options.batch_size, progress))
    table: dict[str, list[Condition]] = {}
    for condition in copy.by_condition(logits.argmax(axis=1) == copy.labels):
        table.setdefault(condition.corruption, []).append(condition)
    return table


def _mean_accuracy(points: Sequence[Condition]) -> float:
    return sum(point.accuracy * point.images for point in points) / sum(point.images for point in points)


def _sample(part: Part) -> Part:
    """Return the part, or MOST_IMAGES of it, always the same."""
    if len(part) <= MOST_IMAGES:
        return part
    rows = np.sort(np.random.default_rng(0).permutation(len(part))[:MOST_IMAGES])
    return Part(part.images, part.indices[rows], part.labels[rows], [part.names[row] for row in rows])
