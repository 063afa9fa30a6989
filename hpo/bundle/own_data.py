"""The data that a bundle was made with: opened again with its split, and checked to be the same."""

from __future__ import annotations

from pathlib import Path

from hpo.bundle.manifest import Manifest
from hpo.data import Dataset, Progress, SplitOptions


def reopen(manifest: Manifest, data: Path, cache: Path, progress: Progress | None = None) -> Dataset:
    """Open `data`, which may be other data, with the split options of the bundle's data set.

    Decisions on single images are applied to the bundle's own data alone.
    """
    origin, size = manifest.data, manifest.preprocessing.image_size
    dataset = origin.reopen(data, image_size=size, cache=cache, changed=False, progress=progress)
    if not (origin.changes and origin.is_base_of(dataset)):
        return dataset
    return origin.reopen(data, image_size=size, cache=cache, progress=progress)


def reopen_same(
    manifest: Manifest, data: Path, cache: Path, progress: Progress | None = None, *, maker: str, way_out: str
) -> Dataset:
    """Open `data` split as the bundle's data set was; DataError as in `refuse_other_data`."""
    dataset = manifest.data.reopen(data, image_size=manifest.preprocessing.image_size, cache=cache, progress=progress)
    refuse_other_data(manifest, dataset, data, maker=maker, way_out=way_out)
    return dataset


def refuse_other_data(
    manifest: Manifest, dataset: Dataset, data: Path, *, maker: str, way_out: str, options: SplitOptions | None = None
) -> None:
    """Raise DataError where `dataset`, opened from `data`, holds other images than the bundle's or another split.

    `options` are those that it was opened with, None for the bundle's. The message calls the bundle, or what it was
    made from, `maker`, and ends with `way_out` where the images are others.
    """
    manifest.data.refuse_other_images(dataset, data, maker=maker, way_out=way_out, classes=manifest.classes)
    refuse_other_split(manifest, dataset, data, maker=maker, options=options)


def refuse_other_split(
    manifest: Manifest, dataset: Dataset, data: Path, *, maker: str, options: SplitOptions | None = None
) -> None:
    """Raise DataError where the bundle's images are split otherwise in `dataset`, which was opened with `options`.

    None stands for the options of the bundle.
    """
    manifest.data.refuse_other_split(
        dataset, data, options=options or manifest.data.options, maker=maker,
        way_out="give the --seed and the fractions that it was made with, or use the version of hpo that made it",
    )  # fmt: skip
