"""Inspected data in memory, with signatures measured from given pictures; no file is written."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from hpo.data import DataSummary, PartName, Unreadable
from hpo.data.signatures import UnmeasuredSignature, measure_signatures, small_pictures
from hpo.inspection.inspected_data import InspectedData


def pictures(count: int, *, seed: int = 0, size: int = 48) -> np.ndarray:
    """Coloured pictures (count, size, size, 3) uint8: smooth fields with a disc, of varied brightness."""
    generator = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        small = generator.uniform(60, 200, (6, 6, 3))
        field = np.asarray(Image.fromarray(small.astype(np.uint8)).resize((size, size), Image.Resampling.BICUBIC))
        y, x = np.mgrid[:size, :size]
        centre, radius = generator.uniform(0.3, 0.7, 2) * size, generator.uniform(0.15, 0.3) * size
        disc = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2
        colour = generator.uniform(30, 120, 3)
        noise = generator.normal(0, 4, (size, size, 3))
        made.append(np.clip(np.where(disc[..., None], colour, field) + noise, 0, 255).astype(np.uint8))
    return np.stack(made)


def inspected(
    images: np.ndarray,
    labels: Sequence[int] | np.ndarray,
    *,
    given: Sequence[PartName | None] | None = None,
    classes: Sequence[str] = (),
    unreadable: tuple[Unreadable, ...] = (),
    names: Sequence[str] = (),
    changes: dict[str, dict[int, int]] | None = None,
) -> InspectedData:
    """Data of the pictures (n, S, S, 3); `changes` are fields of signatures, as {"pages": {row: 3}}."""
    labels = np.asarray(labels, dtype=np.int64)
    classes = tuple(classes) or tuple(f"class {i}" for i in range(labels.max() + 1))
    size = images.shape[1]
    signatures = measure_signatures(
        [UnmeasuredSignature(size, size, 0, 1, 1, *small_pictures(image)) for image in images]
    )
    for field, values in (changes or {}).items():
        for row, value in values.items():
            signatures[field][row] = value
    digests = [(hashlib.md5(image.tobytes()).hexdigest(),) * 2 for image in images]
    counts = np.bincount(labels, minlength=len(classes)).tolist()
    return InspectedData(
        path=Path("cells"), classes=classes,
        names=list(names) or [f"{classes[label]}/{row}.png" for row, label in enumerate(labels)],
        labels=labels, given=given, images=images, signatures=signatures, digests=digests, unreadable=unreadable,
        summary=DataSummary(classes, {"all": counts}), fingerprint="f" * 64, image_size=size,
    )  # fmt: skip
