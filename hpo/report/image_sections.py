"""Sections that are better with images, or need them: the data, saliency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hpo.bundle.access_ledger import AccessCounts
from hpo.data import Dataset
from hpo.data.changes import DataChanges
from hpo.data.names import shortened
from hpo.errors import HpoError
from hpo.report import pictures, wording
from hpo.report.model_data import ModelWithData
from hpo.report.page import Section

MOST_UNREADABLE = 10

MOST_NAMED = 5
"""Files that are named of those that were left out for one finding."""

SEEN = (
    "This model has trained on these images, so it is better on them than on others. Its accuracy on new images is not "
    "shown: the test part stays locked."
)

TRAINED_ON = " (on images it was trained on)"
"""Added to the titles if the model has trained on the images."""


def data_section(
    origin: Mapping[str, Any],
    support: Mapping[str, int],
    dataset: Dataset | None,
    *,
    openings: Sequence[Mapping[str, Any]] = (),
) -> Section:
    """Return the section about classes, counts, split and examples.

    `origin` has the classes, the images by part and the split; `support` the validation images by class. `dataset` adds
    what only the images show. `openings` are the known accesses to the test part.
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


def _opened(openings: Sequence[Mapping[str, Any]]) -> str:
    """Return how often the test part was opened, as far as it is known here, and with how many models."""
    counts = AccessCounts.of(openings)
    if not counts.count:
        return "locked"
    times = "once" if counts.count == 1 else f"{counts.count} times"
    return f"opened {times}{f' with {counts.models} models' if counts.models > 1 else ''}"


def _data_rows(
    origin: Mapping[str, Any], dataset: Dataset | None, openings: Sequence[Mapping[str, Any]]
) -> list[tuple[str, str]]:
    counts: Mapping[str, int] = origin.get("counts", {})
    words = {"train": "train", "val": "validation", "test": f"test, {_opened(openings)}"}
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
