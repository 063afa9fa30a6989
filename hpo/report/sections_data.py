"""The section about the data: classes, counts, examples, split, what was left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hpo.data import Dataset
from hpo.report import pictures, wording
from hpo.report.section import Section

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
