"""Leaks between the given parts: pictures that train a model and measure it too, and what an honest figure would be.

Copies are those of `copies`: equal bytes, equal pixels, near ones and turned ones. A split that hpo makes itself never
separates them, so only parts that DATA brings are looked at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from hpo.data import PartName
from hpo.data.findings import Finding
from hpo.inspection.copies import Copies, CopyGroup
from hpo.inspection.inspected_data import InspectedData

Rows = npt.NDArray[np.int64]
Points = npt.NDArray[np.float32]

PAIRS: tuple[tuple[PartName, PartName], ...] = (("test", "train"), ("test", "val"), ("val", "train"))
"""A part that measures, and a part that its images may have been seen in."""

MEASURED: tuple[PartName, ...] = ("test", "val", "train")
"""The parts in the order in which a leak is settled in favour of one: what is measured last comes first."""

KINDS = ("exact-bytes", "exact-pixels", "near", "turned")
"""How two copies differ, from the least to the most."""

KEPT_SHARE = 0.5
"""A part that measures keeps at least this share of its images: beyond, leaks are settled in its favour."""

EXAMPLES = (0.9, 0.95, 0.99)
"""Measured accuracies for which the honest figure is bounded."""

MOST_COMPARED = 2_000
"""Images of a part that are classified for the estimate; of more, a fixed random sample."""

RULE = (
    "A group of copies goes to the part that holds most of its images; for equal counts, to test before val before "
    "train. "
    "A test or validation part that would lose more than half of its images in this way keeps all its groups."
)


@dataclass(frozen=True)
class LeakEstimate:
    """The accuracy of the nearest neighbour in train, by its embeddings, for images of another part."""

    all_images: float
    clean_images: float
    """On images without a copy in train."""
    n: int
    n_clean: int


@dataclass(frozen=True)
class LeakPair:
    """The images of one part that have a copy in another part."""

    part: PartName
    seen_in: PartName
    rows: Rows
    """Rows of `part` that have a copy."""
    total: int
    """The number of images of `part`."""
    kinds: Mapping[str, int]
    """Kind of copy -> images whose nearest copy is of that kind."""
    other_label: int
    """Images whose copies all carry another label."""

    @property
    def share(self) -> float:
        """The share of the images of `part` that have a copy."""
        return len(self.rows) / max(1, self.total)

    def least_accuracy(self, measured: float) -> float:
        """Return the lowest accuracy on the other images at which `measured` on all can come about.

        It holds if every leaked image is right: (a - s) / (1 - s) for the share s of leaked images.
        """
        if self.share >= 1:
            return 0.0
        return max(0.0, (measured - self.share) / (1 - self.share))

    def most_accuracy(self, measured: float) -> float:
        """Return the highest accuracy on the other images: if the leaked ones were the wrong ones."""
        return 0.0 if self.share >= 1 else min(1.0, measured / (1 - self.share))


@dataclass(frozen=True)
class LeakGroup:
    """Copies of one picture in two parts or more."""

    rows: Rows
    parts: tuple[PartName, ...]
    """The part of each row."""
    kinds: tuple[str, ...]
    """For each row, the kind of its nearest copy in another part."""
    goes_to: PartName
    """The part to which the rule moves all of them."""


@dataclass(frozen=True)
class Leaks:
    """All leaks between given parts, and the moves that end them."""

    given: bool
    """Whether DATA brings parts at all."""
    groups: tuple[LeakGroup, ...] = ()
    pairs: tuple[LeakPair, ...] = ()
    """One for each pair of parts that exist, those without a leak included."""
    findings: tuple[Finding, ...] = ()
    moves: Mapping[str, PartName] = field(default_factory=dict)
    """File -> part, for the files that change their part."""
    estimates: Mapping[PartName, LeakEstimate] = field(default_factory=dict)
    """Part that measures -> accuracy of nearest neighbours in train, where embeddings are known."""


def find_leaks(data: InspectedData, copies: Copies, points: Points | None = None) -> Leaks:
    """Return the leaks between the given parts of `data`; embeddings `points` (n, d) add an estimate of their worth."""
    given = data.given
    if given is None or len(set(given) - {None}) < 2:
        return Leaks(given is not None and any(given))
    parts = np.array([part or "" for part in given])
    straddling = [group for group in copies.groups if len(set(parts[group.rows]) - {""}) > 1]
    groups = _settled(data, straddling, parts)
    pairs = _pairs(data, groups, parts)
    findings = tuple(finding for group in groups for finding in _findings(data, group))
    estimates = {} if points is None else dict(_estimates(data.labels, parts, pairs, points))
    return Leaks(True, groups, pairs, findings, _moves(data, groups), estimates)


def _moves(data: InspectedData, groups: Sequence[LeakGroup]) -> dict[str, PartName]:
    """Return file -> part, for the files of all groups that are not in the part of their group."""
    return {
        data.names[row]: group.goes_to
        for group in groups
        for row, part in zip(group.rows.tolist(), group.parts, strict=True)
        if part != group.goes_to
    }


def _pairs(data: InspectedData, groups: Sequence[LeakGroup], parts: npt.NDArray[np.str_]) -> tuple[LeakPair, ...]:
    """Return the pairs of parts that both have images."""
    return tuple(
        _pair(data, groups, part, seen_in, int((parts == part).sum()))
        for part, seen_in in PAIRS
        if part in parts and seen_in in parts
    )


def _settled(data: InspectedData, found: Sequence[CopyGroup], parts: npt.NDArray[np.str_]) -> tuple[LeakGroup, ...]:
    """Return the groups that straddle parts, each with the part to which RULE moves it."""
    inside = [np.asarray(group.rows)[parts[group.rows] != ""] for group in found]
    counts = [Counter(parts[rows].tolist()) for rows in inside]
    goes_to = _destinations(counts, {part: int((parts == part).sum()) for part in MEASURED})
    return tuple(
        LeakGroup(rows, tuple(parts[rows].tolist()), tuple(_kinds(data, group, rows, parts)), to)
        for group, rows, to in zip(found, inside, goes_to, strict=True)
    )


def _destinations(counts: Sequence[Counter[str]], totals: Mapping[PartName, int]) -> list[PartName]:
    """Return the part to which RULE moves each group, from its images in each part; `totals` are all images."""
    goes_to = [max(MEASURED, key=lambda part: (count[part], -MEASURED.index(part))) for count in counts]
    for part in MEASURED[:-1]:
        lost = sum(count[part] for count, to in zip(counts, goes_to, strict=True) if to != part)
        if totals[part] - lost < KEPT_SHARE * totals[part]:
            goes_to = [
                part if count[part] and MEASURED.index(to) > MEASURED.index(part) else to
                for count, to in zip(counts, goes_to, strict=True)
            ]
    return goes_to


def _kinds(data: InspectedData, group: CopyGroup, rows: Rows, parts: npt.NDArray[np.str_]) -> Iterator[str]:
    """Yield, for each row, the least difference to a copy in another part."""
    orientation = dict(zip(np.asarray(group.rows).tolist(), group.orientations, strict=True))
    known = [(data.digests[row], orientation[row], parts[row]) for row in rows.tolist()]
    by_part: list[dict[object, set[str]]] = [{}, {}, {}]
    for (stored, pixels), turn, part in known:
        for table, key in zip(by_part, (stored, pixels, turn), strict=True):
            table.setdefault(key, set()).add(part)
    for (stored, pixels), turn, part in known:
        same = (table[key] - {part} for table, key in zip(by_part, (stored, pixels, turn), strict=True))
        yield next((kind for kind, others in zip(KINDS, same, strict=False) if others), KINDS[-1])


def _pair(data: InspectedData, groups: Sequence[LeakGroup], part: PartName, seen_in: PartName, total: int) -> LeakPair:
    """Return the images of `part` that have a copy in `seen_in`."""
    rows: list[int] = []
    kinds: Counter[str] = Counter()
    other_label = 0
    for group in groups:
        labels = {int(data.labels[row]) for row, own in zip(group.rows, group.parts, strict=True) if own == seen_in}
        for row, own, kind in zip(group.rows.tolist(), group.parts, group.kinds, strict=True):
            if own == part and labels:
                rows.append(row)
                kinds[kind] += 1
                other_label += int(data.labels[row]) not in labels
    return LeakPair(part, seen_in, np.array(rows, dtype=np.int64), total, dict(kinds), other_label)


_WORDS = {
    "exact-bytes": "byte for byte",
    "exact-pixels": "pixel for pixel",
    "near": "almost the same picture",
    "turned": "the same picture, turned or mirrored",
}


def _findings(data: InspectedData, group: LeakGroup) -> Iterator[Finding]:
    """Yield one finding for each image of a group; nothing is dropped, since `--fix-leaks` moves images."""
    first = {part: row for row, part in reversed(list(zip(group.rows.tolist(), group.parts, strict=True)))}
    for row, part, kind in zip(group.rows.tolist(), group.parts, group.kinds, strict=True):
        others = [f"{other} as {data.names[first[other]]}" for other in MEASURED if other in first and other != part]
        settled = f"stays in {part}" if part == group.goes_to else f"goes to {group.goes_to}"
        reason = f"of {part}, and also in {' and in '.join(others)}, {_WORDS[kind]}; with --fix-leaks it {settled}"
        score = 1.0 if kind.startswith("exact") else 0.95
        yield Finding(data.names[row], "leak", data.names[int(group.rows[0])], score, "keep", reason)


def _estimates(
    labels: Rows, parts: npt.NDArray[np.str_], pairs: Sequence[LeakPair], points: Points
) -> Iterator[tuple[PartName, LeakEstimate]]:
    """Yield the estimate for each part with a copy in train."""
    train = np.flatnonzero(parts == "train")
    for pair in pairs:
        if pair.seen_in == "train" and len(pair.rows):
            rows = np.flatnonzero(parts == pair.part)
            if len(rows) > MOST_COMPARED:
                rows = np.sort(np.random.default_rng(0).permutation(rows)[:MOST_COMPARED])
            right = labels[_nearest(points, rows, train)] == labels[rows]
            clean = ~np.isin(rows, pair.rows)
            if clean.any():
                yield (
                    pair.part,
                    LeakEstimate(float(right.mean()), float(right[clean].mean()), len(rows), int(clean.sum())),
                )


def _nearest(points: Points, rows: Rows, among: Rows) -> Rows:
    """Return for each of `rows` the nearest row of `among`."""
    best = np.full(len(rows), np.inf, dtype=np.float32)
    found = np.zeros(len(rows), dtype=np.int64)
    queries = points[rows]
    for start in range(0, len(among), 4_096):  # in pieces, which bounds the memory
        piece = among[start : start + 4_096]
        others = points[piece]
        distances = (others**2).sum(axis=1) - 2 * queries @ others.T
        at = distances.argmin(axis=1)
        value = distances[np.arange(len(rows)), at]
        nearer = value < best
        best[nearer], found[nearer] = value[nearer], piece[at[nearer]]
    return found
