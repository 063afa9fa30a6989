"""A look at some images of a data set, of all where they are few, before anything is packed."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np
import numpy.typing as npt

from hpo.data.changed_pack import joined_groups
from hpo.data.copy_groups import find_copy_groups, record, recorded_keys
from hpo.data.dataset import Unreadable
from hpo.data.decode import silence_pillow
from hpo.data.grouped_split import ImageRows, assign_parts
from hpo.data.grouping import group_images
from hpo.data.opening import (
    check_listing,
    count_duplicates,
    notes_with,
    open_source,
    pack_notes,
    refuse_unreadable,
    without_used,
)
from hpo.data.pack import PackManifest, PackManifestDraft
from hpo.data.pipeline import decode_all
from hpo.data.records import PARTS, Listing, Source
from hpo.data.signatures import SIGNATURE, Signatures
from hpo.data.split import SplitOptions, count_leaking
from hpo.data.summary import DataSummary
from hpo.errors import DataError

_FEW_IMAGES = 500
"""`inspect_data` decodes all images of a data set of at most this many."""

_INSPECTION_SIZE = 32


@dataclass(frozen=True)
class Inspection:
    """The state of a data set, judged by some of its images."""

    images: int
    decoded: int
    """The number of images that were tried."""
    summary: DataSummary
    """Classes with counts per given part; `unreadable` holds the unreadable ones among the images that were tried."""


def inspect_data(path: str | os.PathLike[str], *, split: SplitOptions | None = None) -> Inspection:
    """Decode some images of each class, or all of a small data set, without packing any.

    Raise DataError where `open_dataset` would, as far as the listing and these images show it, and where no image of a
    class that was tried can be read. Copies are looked for only where all images are decoded.
    """
    source, options = open_source(path), split or SplitOptions()
    listing = source.listing()
    check_listing(listing)
    tried, signatures = _decode_sample(source, listing, _rows_to_try(listing.labels))
    _refuse_unreadable_class(tried, listing)
    whole = len(tried) + len(tried.unreadable) == len(listing.records)
    if whole:
        refuse_unreadable(tried, options.max_unreadable)
        labels, given, names = tried.label_array, tried.given, tried.names
        groups = _all_groups(tried, signatures, options)
    else:
        labels, given = listing.labels, tuple(record.given for record in listing.records)
        names = tuple(record.name for record in listing.records)
        groups = [str(row) for row in range(len(labels))]
    notes = (*pack_notes(tried), *_copies_note(tried, groups)) if whole else _sample_notes(tried, listing)
    grouping = group_images(source, names, options.group_by) if options.group_by is not None else None
    assignment = assign_parts(ImageRows(labels, given, groups, names, listing.classes), options, grouping)
    summary = DataSummary(
        classes=listing.classes,
        counts=_given_counts(listing),
        left_out=without_used(listing.left_out, grouping),
        notes=(*notes_with(grouping, notes), *assignment.notes),
        unreadable=tried.unreadable,
        duplicates=count_duplicates(tried.groups) if whole else None,
        leaking=count_leaking(given, tried.groups) if whole else None,
    )
    return Inspection(len(listing.records), len(tried) + len(tried.unreadable), summary)


def _rows_to_try(labels: npt.NDArray[np.int64]) -> set[int]:
    """Return all rows of a small data set; else the first, the middle and the last of each class."""
    if len(labels) <= _FEW_IMAGES:
        return set(range(len(labels)))
    rows = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    return {int(of_class[at]) for of_class in rows for at in (0, len(of_class) // 2, -1)}


def _decode_sample(source: Source, listing: Listing, rows: set[int]) -> tuple[PackManifest, Signatures]:
    """Decode the chosen images at a small size; return the manifest that their pack would have, and its signatures."""
    draft = PackManifestDraft(_INSPECTION_SIZE, listing.classes, listing.left_out, listing.notes)
    records = iter([record for row, record in enumerate(listing.records) if row in rows])
    signatures = []
    with silence_pillow(), source.reads() as reads:
        chosen = (read for row, read in enumerate(islice(reads, max(rows) + 1)) if row in rows)
        with closing(decode_all(chosen, _INSPECTION_SIZE, source.chunk, signatures=True)) as chunks:
            for decoded in chain.from_iterable(chunks):
                draft.add(next(records), decoded)
                signatures += [decoded.signature] if decoded.pixels is not None else []
    return draft.finish(), np.array(signatures, dtype=SIGNATURE)


def _all_groups(tried: PackManifest, signatures: Signatures, options: SplitOptions) -> list[str]:
    """Return the groups of copies of a data set whose images are all decoded, as `open_dataset` splits them."""
    digests = list(zip(tried.stored, tried.pixels, strict=True))
    copies = options.copies if options.copies is not None else record(find_copy_groups(signatures, digests), digests)
    return joined_groups(tried.groups, recorded_keys(copies, tried.stored))


def _copies_note(tried: PackManifest, groups: Sequence[str]) -> tuple[str, ...]:
    """Return a line on the copies that are no exact duplicates."""
    near = count_duplicates(groups) - count_duplicates(tried.groups)
    images = "1 image is a copy" if near == 1 else f"{near:,} images are copies"
    return (f"{images} without being equal: turned, encoded anew or cropped; `hpo data` shows them",) if near else ()


def _refuse_unreadable_class(tried: PackManifest, listing: Listing) -> None:
    """Raise DataError for the first class of which no image that was tried can be read."""
    label = {record.name: record.label for record in listing.records}
    failed: dict[int, list[Unreadable]] = defaultdict(list)
    for image in tried.unreadable:
        failed[label[image.name]].append(image)
    for number in sorted(set(failed) - set(tried.labels)):
        first = failed[number][0]
        raise DataError(
            f"none of {len(failed[number])} images of class {listing.classes[number]!r} can be read, "
            f"the first is {first.name}: {first.reason}; mend or remove them"
        )


def _given_counts(listing: Listing) -> dict[str, list[int]]:
    """Return images per class for each given part, or under `images` where no part is given."""
    names = [part or "images" for part in (None, *PARTS)]
    labels = {
        name: [record.label for record in listing.records if (record.given or "images") == name] for name in names
    }
    return {name: np.bincount(some, minlength=len(listing.classes)).tolist() for name, some in labels.items() if some}


def _sample_notes(tried: PackManifest, listing: Listing) -> tuple[str, ...]:
    """Return `pack_notes` where only some images were decoded; notes that come from these say so."""
    decoded = len(tried) + len(tried.unreadable)
    notes = [
        note if note in listing.notes else f"of the {decoded:,} images tried: {note}" for note in pack_notes(tried)
    ]
    left = f"{decoded:,} of {len(listing.records):,} images were decoded"
    return (*notes, f"{left}, so copies, leaks and blank images were not looked for: `hpo data` looks at all of them")
