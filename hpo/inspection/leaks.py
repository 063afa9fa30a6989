"""Leaks between the given parts: pictures that train a model and measure it too, and what an honest figure would be.

Copies are those of `copies`: equal bytes, equal pixels, near ones and turned ones. Where the images are grouped (by
patient, slide, plate), two images of one group in two parts are a leak too. A split that hpo makes itself never
separates them, so only parts that DATA brings are looked at.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from hpo.data import PartName
from hpo.data.findings import Finding
from hpo.data.records import PARTS
from hpo.inspection.copies import Copies
from hpo.inspection.image_groups import units_of
from hpo.inspection.inspected_data import InspectedData

Rows = npt.NDArray[np.int64]
Points = npt.NDArray[np.float32]

PAIRS: tuple[tuple[PartName, PartName], ...] = (("test", "train"), ("test", "val"), ("val", "train"))
"""A part that measures, and a part that its images may have been seen in."""

MEASURED: tuple[PartName, ...] = ("test", "val", "train")
"""The parts in the order in which a leak is settled in favour of one: what is measured last comes first."""

LeakKind = Literal["exact-bytes", "exact-pixels", "near", "turned", "same-group", "joined-group"]

KINDS: tuple[LeakKind, ...] = get_args(LeakKind)
"""How an image is related to one of another part, the surest first: as its copy, as an image of its group, or only
because copies join its group to another one."""

COPY_KINDS = KINDS[:4]
"""The kinds of copies."""

KEPT_SHARE = 0.5
"""A part that measures keeps at least this share of its images: beyond, leaks are settled in its favour."""

EXAMPLES = (0.9, 0.95, 0.99)
"""Measured accuracies for which the honest figure is bounded."""

MOST_COMPARED = 2_000
"""Images of a part that are classified for the estimate; of more, a fixed random sample."""

RULE = (
    "Copies of a picture go to the part that holds most of them, with --group-by together with all images of their "
    "groups; for equal counts, to test before val before train. "
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
    """The images of one part that have a copy, or an image of their group, in another part."""

    part: PartName
    seen_in: PartName
    rows: Rows
    """Rows of `part` that have one."""
    total: int
    """The number of images of `part`."""
    kinds: Mapping[LeakKind, int]
    """Kind -> images whose nearest relation to an image of another part is of that kind."""
    other_label: int
    """Images whose copies all carry another label."""

    @property
    def share(self) -> float:
        """The share of the images of `part` that have one."""
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
    """Copies of one picture in two parts or more; in grouped data all images that a split keeps together."""

    rows: Rows
    parts: tuple[PartName, ...]
    """The part of each row."""
    kinds: tuple[LeakKind, ...]
    """For each row, how it is related to an image of another part."""
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


def find_leaks(
    data: InspectedData, copies: Copies, points: Points | None = None, *, without: Collection[str] = ()
) -> Leaks:
    """Return the leaks between the given parts of `data`; embeddings `points` (n, d) add an estimate of their worth.

    The files `without` are taken for left out: they leak nothing and keep nothing together.
    """
    given = data.given
    if given is None or len(set(given) - {None}) < 2:
        return Leaks(given is not None and any(given))
    kept = np.array([name not in without for name in data.names])
    parts = np.where(kept, np.array([part or "" for part in given]), "")
    straddling = _straddling(units_of(data, copies.group_of, kept), parts)
    related = _Related.of(data, copies, parts, [row for rows in straddling for row in rows.tolist()])
    groups = _settled(related, straddling)
    pairs = _pairs(data, related, groups)
    findings = tuple(finding for group in groups for finding in _findings(data, related, group))
    estimates = {} if points is None else dict(_estimates(data.labels, parts, pairs, points))
    return Leaks(True, groups, pairs, findings, _moves(data, groups), estimates)


def _straddling(units: Rows, parts: npt.NDArray[np.str_]) -> list[Rows]:
    """Return the rows of each unit that has images in several parts, in the order of their first rows."""
    inside = np.flatnonzero(parts != "")
    number = np.unique(parts[inside], return_inverse=True)[1]
    least, most = np.full(units.max() + 1, len(PARTS)), np.full(units.max() + 1, -1)
    np.minimum.at(least, units[inside], number)
    np.maximum.at(most, units[inside], number)
    rows = inside[(least < most)[units[inside]]]
    ordered = rows[np.argsort(units[rows], kind="stable")]
    sets = np.split(ordered, np.flatnonzero(np.diff(units[ordered])) + 1) if len(ordered) else []
    return sorted(sets, key=lambda some: int(some[0]))


@dataclass(frozen=True)
class _Related:
    """The images of other parts that are related to an image: equal, a copy, or of its group."""

    parts: npt.NDArray[np.str_]
    """(n,) "" for images without a part."""
    keys: Mapping[int, tuple[object, ...]]
    """Row -> what it shares with the images to which it is related, for each of KINDS but the last."""
    first: Mapping[tuple[object, str], int]
    """(key, part) -> the first row of that part with that key."""

    @classmethod
    def of(cls, data: InspectedData, copies: Copies, parts: npt.NDArray[np.str_], rows: Sequence[int]) -> _Related:
        """Relate the images `rows`, all of which are in a part."""
        turns = {
            row: turn
            for group in copies.groups
            for row, turn in zip(np.asarray(group.rows).tolist(), group.orientations, strict=True)
        }
        keys: dict[int, tuple[object, ...]] = {}
        first: dict[tuple[object, str], int] = {}
        pictures = copies.group_of.tolist()
        for row in rows:
            stored, pixels = data.digests[row]
            picture = pictures[row]
            own = data.grouping.values[row] if data.grouping else row
            keys[row] = (
                ("stored", stored), ("pixels", pixels), ("turn", picture, turns.get(row, 0)), ("picture", picture),
                ("group", own),
            )  # fmt: skip
            for key in keys[row]:
                first.setdefault((key, str(parts[row])), row)
        return cls(parts, keys, first)

    def kind(self, row: int) -> LeakKind:
        """Return the least difference to an image of another part."""
        others = [part for part in MEASURED if part != self.parts[row]]
        kinds = (kind for kind, key in zip(KINDS, self.keys[row], strict=False) if self._held(key, others))
        return next(kinds, KINDS[-1])

    def nearest(self, row: int, kind: LeakKind) -> dict[PartName, int]:
        """Return other part -> its first image that is a copy of `row`, or of its group for that kind."""
        key = self.keys[row][-1 if kind == "same-group" else -2]
        found = {part: self.first.get((key, part)) for part in MEASURED if part != self.parts[row]}
        return {part: other for part, other in found.items() if other is not None}

    def _held(self, key: object, parts: Sequence[PartName]) -> bool:
        return any((key, part) in self.first for part in parts)


def _moves(data: InspectedData, groups: Sequence[LeakGroup]) -> dict[str, PartName]:
    """Return file -> part, for the files of all groups that are not in the part of their group."""
    return {
        data.names[row]: group.goes_to
        for group in groups
        for row, part in zip(group.rows.tolist(), group.parts, strict=True)
        if part != group.goes_to
    }


def _pairs(data: InspectedData, related: _Related, groups: Sequence[LeakGroup]) -> tuple[LeakPair, ...]:
    """Return the pairs of parts that both have images."""
    totals = Counter(related.parts.tolist())
    return tuple(
        _pair(data, related, groups, (part, seen_in, totals[part]))
        for part, seen_in in PAIRS
        if totals[part] and totals[seen_in]
    )


def _settled(related: _Related, straddling: Sequence[Rows]) -> tuple[LeakGroup, ...]:
    """Return the sets of images that straddle parts, each with the part to which RULE moves it."""
    totals = Counter(related.parts.tolist())
    counts = [Counter(related.parts[rows].tolist()) for rows in straddling]
    goes_to = _destinations(counts, {part: totals[part] for part in MEASURED})
    return tuple(
        LeakGroup(rows, tuple(related.parts[rows].tolist()), tuple(map(related.kind, rows.tolist())), to)
        for rows, to in zip(straddling, goes_to, strict=True)
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


def _pair(
    data: InspectedData, related: _Related, groups: Sequence[LeakGroup], pair: tuple[PartName, PartName, int]
) -> LeakPair:
    """Return the leaked images of a part; `pair` is that part, the one that they were seen in, and its images."""
    part, seen_in, total = pair
    rows: list[int] = []
    kinds: Counter[LeakKind] = Counter()
    other_label = 0
    for group in groups:
        labels: dict[object, set[int]] = defaultdict(set)
        for row, own in zip(group.rows.tolist(), group.parts, strict=True):
            if own == seen_in:
                for key in related.keys[row][-2:]:
                    labels[key].add(int(data.labels[row]))
        for row, own, kind in zip(group.rows.tolist(), group.parts, group.kinds, strict=True):
            picture, same = (labels.get(key) for key in related.keys[row][-2:])
            if own == part and (picture or same):
                rows.append(row)
                kinds[kind] += 1
                other_label += picture is not None and int(data.labels[row]) not in picture
    return LeakPair(part, seen_in, np.array(rows, dtype=np.int64), total, dict(kinds), other_label)


_WORDS: dict[LeakKind, str] = {
    "exact-bytes": "byte for byte",
    "exact-pixels": "pixel for pixel",
    "near": "almost the same picture",
    "turned": "the same picture, turned or mirrored",
}


def _findings(data: InspectedData, related: _Related, group: LeakGroup) -> Iterator[Finding]:
    """Yield one finding for each image of a group that is seen in another part itself, by a copy or by its group.

    Nothing is dropped, since `--fix-leaks` moves images.
    """
    for row, part, kind in zip(group.rows.tolist(), group.parts, group.kinds, strict=True):
        if kind == "joined-group":
            continue
        others = [f"{other} as {data.names[first]}" for other, first in related.nearest(row, kind).items()]
        settled = f"stays in {part}" if part == group.goes_to else f"goes to {group.goes_to}"
        if kind in _WORDS:
            what = f"of {part}, and also in {' and in '.join(others)}, {_WORDS[kind]}"
        else:
            own = data.grouping.values[row] if data.grouping else ""
            what = f"of {part}; its group {own!r} is also in {' and in '.join(others)}"
        score = 1.0 if kind.startswith("exact") else 0.95
        reason = f"{what}; with --fix-leaks it {settled}"
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
