"""Copies of one picture in a data set: how each differs from the one that is kept, and how sure the search is.

The groups are those that a split made by hpo keeps on one side (`hpo.data.copy_groups`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from hpo.data.copy_groups import SIMILARITY, CopyGroups, find_copy_groups
from hpo.data.dataset import Labels, Progress, Rows
from hpo.data.findings import Finding
from hpo.data.records import PARTS
from hpo.data.symmetries import composed, inverse, symmetry_in_words
from hpo.inspection.inspected_data import InspectedData

CopyKind = Literal["exact-bytes", "exact-pixels", "near", "turned"]
"""How an image differs from the first of its group: not at all, in its file only, in its pixels, in its orientation."""


FEWEST_GROUPS = 10
"""The number of groups from which the share of real copies is told: labels of fewer are too often equal by chance."""


@dataclass(frozen=True)
class CopyGroup:
    """Two images or more that show one picture. The first is the one to keep."""

    rows: Rows
    """(k,) int64 rows of the data set."""
    kinds: tuple[CopyKind, ...]
    """How each image differs from the first; the first itself counts as exact-bytes."""
    orientations: tuple[int, ...]
    """Each image is the first turned so, as `hpo.data.symmetries` numbers the eight symmetries."""
    similarities: tuple[float, ...]
    """0 to 1, to the image of the group that has the most confirmed copies; 1 for equal pixels."""


@dataclass(frozen=True)
class LabelAgreement:
    """How often two copies share their label: an estimate of the precision that needs no labels of copies.

    If a share p of the found groups are copies, and copies share their labels, a share p + (1 - p) c of the pairs has
    equal labels, where c is the share among pairs of images drawn at random.
    """

    groups: int
    """The number of groups found by their pixels, not by equal bytes or equal pixels."""
    equal: float
    """The share of pairs with equal labels, each group counted once."""
    chance: float
    """The share of pairs of images drawn at random with equal labels."""

    @property
    def precision(self) -> float | None:
        """The estimated share of found groups that are copies, 0 to 1; None without groups or with one class.

        It is too low where copies carry different labels, as pictures that do not belong do.
        """
        if not self.groups or self.chance >= 1:
            return None
        return max(0.0, (self.equal - self.chance) / (1 - self.chance))

    def line(self) -> str:
        """Return the estimate as a sentence."""
        if self.precision is None:
            return "no copies were found by their pixels, so there is nothing to estimate"
        if self.groups < FEWEST_GROUPS:
            found = "1 group was" if self.groups == 1 else f"{self.groups:,} groups were"
            return f"{found} found by pixels that are nearly equal, too few to estimate how many are real copies"
        return (
            f"{self.equal:.1%} of pairs found by their pixels have one label, {self.chance:.1%} by chance: about "
            f"{self.precision:.1%} of the {self.groups:,} groups are real copies, if real ones always have one label"
        )


@dataclass(frozen=True)
class Copies:
    """All groups of copies of a data set of n images."""

    groups: tuple[CopyGroup, ...]
    """Groups of two images or more, in the order of their first images."""
    group_of: Labels
    """(n,) int64: the group of every image, those alone in theirs included."""
    agreement: LabelAgreement
    threshold: float = SIMILARITY
    """The similarity from which two pictures count as copies."""

    @property
    def extra(self) -> int:
        """The number of images beyond the first of each group."""
        return sum(len(group.rows) - 1 for group in self.groups)


def find_copies(data: InspectedData, progress: Progress | None = None) -> Copies:
    """Find the copies among the images of a data set: equal, encoded anew, brightened, shifted, cropped or turned."""
    found = find_copy_groups(data.signatures, data.digests, cache=data.folder, progress=progress)
    order = np.argsort(found.group_of, kind="stable")
    begins = np.flatnonzero(np.diff(found.group_of[order], prepend=-1))
    members = [rows for rows in np.split(order, begins[1:]) if len(rows) > 1]
    groups = tuple(_group(data, found, rows) for rows in members)
    return Copies(groups, found.group_of, _agreement(data, groups))


def _group(data: InspectedData, found: CopyGroups, rows: Rows) -> CopyGroup:
    """Return a group with the image to keep first: of the earliest part, the largest, the most alike, by name."""
    sides = data.signatures[rows]  # of these rows alone: all of them would be read from the disk for each group
    area = dict(zip(rows.tolist(), (sides["width"].astype(np.int64) * sides["height"]).tolist(), strict=True))

    def preference(row: int) -> tuple[int, int, float, str]:
        part = data.given[row] if data.given else None
        return (PARTS.index(part) if part else 0, -area[row], -round(found.similarity[row], 2), data.names[row])

    ordered = np.array(sorted(rows.tolist(), key=preference), dtype=np.int64)
    back = inverse(int(found.symmetry[ordered[0]]))
    orientations = tuple(composed(back, int(found.symmetry[row])) for row in ordered)
    kinds = tuple(
        _kind(data, int(ordered[0]), row, turn) for row, turn in zip(ordered.tolist(), orientations, strict=True)
    )
    return CopyGroup(ordered, kinds, orientations, tuple(found.similarity[ordered].tolist()))


def _kind(data: InspectedData, first: int, row: int, orientation: int) -> CopyKind:
    (stored, pixels), (first_stored, first_pixels) = data.digests[row], data.digests[first]
    if stored == first_stored:
        return "exact-bytes"
    if pixels == first_pixels:
        return "exact-pixels"
    return "turned" if orientation else "near"


def _agreement(data: InspectedData, groups: tuple[CopyGroup, ...]) -> LabelAgreement:
    """Compare the labels of copies that were found by their pixels."""
    seen = [group for group in groups if {"near", "turned"} & set(group.kinds)]
    chance = float((_shares(data.labels) ** 2).sum())
    equal = [float(_equal_pairs(data.labels[_different(data, group)])) for group in seen]
    return LabelAgreement(len(seen), float(np.mean(equal)) if equal else 0.0, chance)


def _different(data: InspectedData, group: CopyGroup) -> Rows:
    """Return one row of each different picture of a group."""
    _, first = np.unique([data.digests[row][1] for row in group.rows], return_index=True)
    return group.rows[first]


def _shares(labels: Labels) -> npt.NDArray[np.float64]:
    return np.unique(labels, return_counts=True)[1] / max(1, len(labels))


def _equal_pairs(labels: Labels) -> float:
    """Return the share of pairs of n >= 2 labels that are equal."""
    counts = np.unique(labels, return_counts=True)[1]
    return float((counts * (counts - 1)).sum() / (len(labels) * (len(labels) - 1)))


def copy_findings(data: InspectedData, copies: Copies) -> tuple[Finding, ...]:
    """Return the findings on copies, one for each image of a group.

    Of copies with one label, all but the first are to be dropped. A picture that is there under several labels is a
    conflict: nothing tells which label is right, so none of its images is kept.
    """
    return tuple(
        finding
        for number, group in enumerate(copies.groups, start=1)
        for finding in (_conflict if len(set(data.labels[group.rows].tolist())) > 1 else _copy)(data, group, number)
    )


def _copy(data: InspectedData, group: CopyGroup, number: int) -> Iterator[Finding]:
    first = data.names[group.rows[0]]
    more = len(group.rows) - 1
    kept = f"kept: the data hold {'1 copy' if more == 1 else f'{more:,} copies'} of it"
    for place, row in enumerate(group.rows.tolist()):
        reason = f"{_difference(group, place)} {first}{_found_by(group, place)}" if place else kept
        action = "drop" if place else "keep"
        yield Finding(data.names[row], "copy", f"copy-{number}", group.similarities[place], action, reason)


def _conflict(data: InspectedData, group: CopyGroup, number: int) -> Iterator[Finding]:
    classes = Counter(data.classes[label] for label in data.labels[group.rows])
    counts = ", ".join(f"{name} ({count:,})" for name, count in sorted(classes.items()))
    first = data.names[group.rows[0]]
    for place, row in enumerate(group.rows.tolist()):
        what = f"{_difference(group, place)} {first}{_found_by(group, place)}" if place else "one picture"
        reason = f"{what}; it is there under {len(classes)} classes: {counts}"
        yield Finding(data.names[row], "conflict", f"conflict-{number}", group.similarities[place], "drop", reason)


def _difference(group: CopyGroup, place: int) -> str:
    words: dict[CopyKind, str] = {"exact-bytes": "the same file as", "exact-pixels": "the same pixels as"}
    return words.get(group.kinds[place], "a copy of")


def _found_by(group: CopyGroup, place: int) -> str:
    """Return the orientation and the similarity of a copy, where they are not those of equal pixels."""
    if group.kinds[place] in ("exact-bytes", "exact-pixels"):
        return ""
    turned = symmetry_in_words(group.orientations[place])
    return f"{f', {turned}' if turned else ''}, similarity {group.similarities[place]:.2f}"
