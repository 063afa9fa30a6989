"""The images, labels and signatures of a data set, as every check of the data doctor gets them.

All readable images are in, those of a given test part too: a check looks for faults and leaks and trains nothing that
is kept. Nothing is split, and nothing is refused for being unreadable; that is for the checks to say.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hpo.data import DataSummary
from hpo.data.dataset import Images, Labels, PartName, Progress, Unreadable
from hpo.data.grouping import Grouping, group_images
from hpo.data.opening import notes_with, open_source, summarise_pack, without_used
from hpo.data.pack import PackManifest, open_pack
from hpo.data.signatures import Signatures


@dataclass(frozen=True)
class InspectedData:
    """The n readable images of a data set. Row i of every column is one image."""

    path: Path
    classes: tuple[str, ...]
    """Class names; the label is the position."""
    names: Sequence[str]
    """n paths or keys relative to the data set, readable by people."""
    labels: Labels
    """(n,) int64 class numbers."""
    given: Sequence[PartName | None] | None
    """The n parts that the data set itself names, None for an image without one; None if it names no part at all."""
    images: Images
    """(n, S, S, 3) uint8 memory map, RGB."""
    signatures: Signatures
    """(n,) of `hpo.data.signatures.SIGNATURE`, a memory map; the same at every S."""
    digests: Sequence[tuple[str, str]]
    """n pairs of hex digests: of the stored image, and of its pixels at the stored size."""
    unreadable: tuple[Unreadable, ...]
    """The images that could not be read, with the reason; they have no row."""
    summary: DataSummary
    fingerprint: str
    """Hex digest of the content, as in `hpo.data.Dataset`."""
    image_size: int
    """Side S of the packed images, in pixels."""
    white_level: int | None = None
    """The value of 16-bit images that became 255, as in `hpo.data.Dataset`; None where no image has 16 bits."""
    grouping: Grouping | None = None
    """The group of each image (patient, slide, plate) that must stay together; None where none was asked for."""
    group_by: str | None = None
    """The column or expression of `grouping`, as it was asked for."""
    folder: Path | None = None
    """The folder of the pack, where the groups of copies are kept once they are found; None keeps them nowhere."""

    def __len__(self) -> int:
        return len(self.names)


def open_inspected(
    path: str | os.PathLike[str],
    *,
    image_size: int,
    cache: str | os.PathLike[str],
    white_level: int | None = None,
    group_by: str | None = None,
    progress: Progress | None = None,
) -> InspectedData:
    """Open all readable images of a data set, packed at S = `image_size` in the folder `cache`.

    `white_level` is as in `hpo.data.open_dataset`, `group_by` as in its options of the split. Raise DataError where the
    data set cannot be read as labelled images at all, UsageError or DataError for groups as `group_images` does. A
    class of one image, or with none that can be read, is not an error here.
    """
    source = open_source(path)
    pack = open_pack(source, image_size, Path(cache), white=white_level, progress=progress)
    manifest = pack.manifest
    grouping = group_images(source, manifest.names, group_by) if group_by is not None else None
    return InspectedData(
        path=source.path,
        classes=manifest.classes,
        names=manifest.names,
        labels=np.asarray(manifest.label_array),
        given=manifest.given if any(manifest.given) else None,
        images=pack.images,
        signatures=pack.signatures,
        digests=list(zip(manifest.stored, manifest.pixels, strict=True)),
        unreadable=manifest.unreadable,
        summary=_summary(manifest, grouping),
        fingerprint=manifest.fingerprint,
        image_size=image_size,
        white_level=manifest.white_level,
        grouping=grouping,
        group_by=group_by,
        folder=pack.folder,
    )


def _summary(manifest: PackManifest, grouping: Grouping | None) -> DataSummary:
    """Describe the images; the column that they are grouped by is not left out."""
    summary = summarise_pack(manifest)
    notes, left_out = notes_with(grouping, summary.notes), without_used(summary.left_out, grouping)
    return replace(summary, notes=notes, left_out=left_out)
