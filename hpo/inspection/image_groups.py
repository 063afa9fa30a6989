"""The groups of images that must stay together (patient, slide, plate), and what copies and given parts do to them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from hpo.data.dataset import Labels
from hpo.data.grouping import Grouping, grouping_notes, unite
from hpo.data.names import shortened
from hpo.inspection.copies import Copies
from hpo.inspection.inspected_data import InspectedData

_NAMED = 4
"""The number of groups that a reason names."""


@dataclass(frozen=True)
class ImageGroups:
    """The groups of a data set as `hpo run --group-by` would keep them together."""

    word: str
    """The column or expression, as `Grouping.word`."""
    count: int
    smallest: int
    """Images of the smallest group."""
    largest: int
    typical: float
    """The median number of images of a group."""
    across: int
    """The number of pictures with copies in several groups."""
    linked: int
    """The number of groups that such copies join to another, for a split."""
    notes: tuple[str, ...]
    """The notes of a search on these groups."""

    def lines(self) -> list[str]:
        """Return the groups in words, what copies do to them, and what given parts do."""
        sizes = f"{self.smallest:,} to {self.largest:,} images, {self.typical:,.6g} in the middle"
        said = [f"grouped by {self.word}: {self.count:,} groups of {sizes}"]
        if self.across:
            pictures = "1 picture has" if self.across == 1 else f"{self.across:,} pictures have"
            said.append(f"grouped by {self.word}: {pictures} copies in several groups; their findings name the groups")
        return [*said, *self.notes]

    def to_json(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return {
            "by": self.word, "count": self.count, "smallest": self.smallest, "median": self.typical,
            "largest": self.largest, "pictures_in_several": self.across, "joined_by_copies": self.linked,
        }  # fmt: skip


def measure_groups(data: InspectedData, copies: Copies) -> ImageGroups | None:
    """Return the groups of a data set; None where it is not grouped."""
    grouping = data.grouping
    if grouping is None:
        return None
    _, linked = unite([str(group) for group in copies.group_of.tolist()], grouping.values)
    sizes = list(Counter(grouping.values).values())
    given = data.given if data.given is not None else [None] * len(data)
    return ImageGroups(
        word=grouping.word, count=grouping.count, smallest=min(sizes), largest=max(sizes), typical=median(sizes),
        across=sum(len(groups_of_rows(grouping, group.rows)) > 1 for group in copies.groups),
        linked=linked, notes=grouping_notes(grouping, given, linked),
    )  # fmt: skip


def groups_of_rows(grouping: Grouping, rows: Labels) -> list[str]:
    """Return the different groups of some images, sorted."""
    return sorted({grouping.values[row] for row in rows.tolist()})


def units_of(data: InspectedData, group_of: Labels, kept: npt.NDArray[np.bool_] | None = None) -> Labels:
    """Return (n,) the number of the unit of each image: images that a split keeps together.

    These are its copies, by the numbers `group_of` (n,), and those of its group where the data are grouped. Images that
    are not `kept` (n,) link nothing: each is a unit of its own.
    """
    rows = np.arange(len(data)) if kept is None else np.flatnonzero(kept)
    together = [str(group) for group in group_of[rows].tolist()]
    if data.grouping is not None:
        together, _ = unite(together, [data.grouping.values[row] for row in rows.tolist()])
    names = np.array([f"image {row}" for row in range(len(data))], dtype=object)
    names[rows] = together
    units: Labels = np.unique(names, return_inverse=True)[1].astype(np.int64)
    return units


def across_groups(data: InspectedData, copies: Copies) -> dict[str, str]:
    """Return file -> a clause for the reason of its finding, for copies of one picture that lie in several groups."""
    grouping = data.grouping
    if grouping is None:
        return {}
    clauses: dict[str, str] = {}
    for group in copies.groups:
        if len(names := groups_of_rows(grouping, group.rows)) > 1:
            clause = f"it lies in {len(names):,} groups by {grouping.word}: {shortened(names, _NAMED)}"
            clauses.update({data.names[row]: clause for row in group.rows.tolist()})
    return clauses
