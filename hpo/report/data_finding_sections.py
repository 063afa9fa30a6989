"""Sections with findings as groups of pictures: copies, conflicts, pictures that do not belong, labels, leaks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from hpo.data.findings import RELABEL, Finding
from hpo.inspection.leaks import EXAMPLES, RULE, LeakPair, Leaks
from hpo.report import data_figures, wording
from hpo.report.data_pictures import Thumbnail, Thumbnails, evenly
from hpo.report.page import Section

MOST_GROUPS = 16
"""Groups that a section shows."""

MOST_OF_GROUP = 8
"""Pictures of a group that are shown."""

MOST_LABELS = 24
"""Suspicious labels that are shown, and each with so many neighbours:"""

NEIGHBOURS = 5

MOST_ALONE = 48
"""Pictures without a group that a section shows."""

Groups = dict[str, list[Finding]]

Neighbours = Callable[[Sequence[int], int], Mapping[int, Sequence[int]]]
"""(rows, k) -> row -> the rows of its k nearest other pictures."""


@dataclass(frozen=True)
class ShownGroup:
    """One group of pictures on the page."""

    title: str
    score: float
    reason: str
    pictures: tuple[Thumbnail, ...]
    more: int = 0
    """Pictures of the group that are not shown."""
    labels: tuple[tuple[str, int], ...] = ()
    """Class -> images of the group, the most frequent first; empty where it says nothing."""


def by_group(rows: Iterable[Finding]) -> Groups:
    """Return the findings by their group, the largest first; a finding without a group is one of its own."""
    groups: Groups = {}
    for row in rows:
        groups.setdefault(row.group or f"\0{row.file}", []).append(row)
    return dict(sorted(groups.items(), key=lambda item: (-len(item[1]), -max(row.score for row in item[1]))))


def copies_section(
    rows: Sequence[Finding], turns: Mapping[str, str], facts: Sequence[tuple[str, str]], pictures: Thumbnails
) -> Section:
    """Return the section about copies; `turns` says of a file how it differs from the first of its group."""
    if not rows:
        return Section("copies", "Copies", missing="No copies were found: no two images show the same picture.")
    groups = by_group(rows)
    shown = _varied(groups, lambda group: {turns.get(row.file, "") for row in group}, MOST_GROUPS)
    return Section(
        "copies", "Copies",
        {
            "facts": facts,
            "groups": [_copy_group(groups[name], turns, pictures) for name in shown],
            "sizes": _sizes(groups),
            "more": len(groups) - len(shown),
            "total": len(groups),
        },
    )  # fmt: skip


def _copy_group(group: Sequence[Finding], turns: Mapping[str, str], pictures: Thumbnails) -> ShownGroup:
    kept = [row for row in group if row.action == "keep"]
    ordered = [*kept, *(row for row in group if row.action != "keep")]
    shown = ordered[:1] + [ordered[i] for i in evenly(range(1, len(ordered)), MOST_OF_GROUP - 1)]
    images = [picture for row in shown for picture in _copy_pictures(row, turns, pictures)]
    labels = _labels(group, pictures)
    return ShownGroup(
        wording.counted(len(group), "image"), _score(group),
        next((row.reason for row in group if row.action == "drop"), group[0].reason),
        tuple(images), len(group) - len(images), labels if len(labels) > 1 else (),
    )  # fmt: skip


def _copy_pictures(row: Finding, turns: Mapping[str, str], pictures: Thumbnails) -> Iterator[Thumbnail]:
    state = "kept" if row.action == "keep" else "left out"
    for at in pictures.rows([row.file]):
        yield pictures.of(at, state, turns.get(row.file, ""), marked=row.action == "drop")


def _sizes(groups: Groups) -> list[tuple[str, int]]:
    """Return how many groups have how many images."""
    counts = Counter(len(group) for group in groups.values())
    borders = ((2, 2), (3, 5), (6, 20), (21, 100), (101, 10**9))
    named = [
        (f"{low}" if low == high else f"{low} to {high}" if high < 10**9 else "more than 100",
         sum(n for size, n in counts.items() if low <= size <= high))
        for low, high in borders
    ]  # fmt: skip
    return [(name, count) for name, count in named if count]


def _varied(groups: Groups, kinds: Callable[[Sequence[Finding]], set[str]], most: int) -> list[str]:
    """Return at most `most` groups: the largest half, and then the least sure of the kinds that were seen least."""
    names = list(groups)
    if len(names) <= most:
        return names
    chosen = names[: most // 2]
    seen: Counter[str] = Counter(kind for name in chosen for kind in kinds(groups[name]))
    rest = names[most // 2 :]
    of = {name: kinds(groups[name]) for name in rest[:2_000]}
    while len(chosen) < most and of:
        best = min(of, key=lambda name: (min((seen[kind] for kind in of[name]), default=0), _score(groups[name])))
        seen.update(of.pop(best))
        chosen.append(best)
    return chosen


def _score(group: Sequence[Finding]) -> float:
    return min(row.score for row in group)


def conflicts_section(rows: Sequence[Finding], foreign: Collection[str], pictures: Thumbnails) -> Section:
    """Return the section about copies of one picture under several labels.

    Groups of the files `foreign` do not belong at all, and are shown as such; here they are only counted.
    """
    title = "One picture under several labels"
    if not rows:
        return Section("conflicts", title, missing="None: all copies of a picture carry one label.")
    groups = by_group(rows)
    own = [name for name, group in groups.items() if not all(row.file in foreign for row in group)]
    shown = own[:MOST_GROUPS]
    return Section(
        "conflicts", title,
        {
            "groups": [replace(_labelled_group(groups[name], pictures), labels=()) for name in shown],
            "more": len(own) - len(shown),
            "foreign": len(groups) - len(own),
            "images": len(rows),
        },
    )  # fmt: skip


def _labelled_group(group: Sequence[Finding], pictures: Thumbnails) -> ShownGroup:
    """Return a group whose pictures carry their labels, one of each label first."""
    rows = pictures.rows(row.file for row in group)
    first: dict[str, int] = {}
    for row in rows:
        first.setdefault(pictures.label(row), row)
    chosen = list(dict.fromkeys([*first.values(), *evenly(rows, MOST_OF_GROUP)]))[:MOST_OF_GROUP]
    images = tuple(pictures.of(row, pictures.label(row)) for row in chosen)
    return ShownGroup(
        wording.counted(len(group), "image"), max(row.score for row in group), group[0].reason, images,
        len(group) - len(images), _labels(group, pictures),
    )  # fmt: skip


def _labels(group: Sequence[Finding], pictures: Thumbnails) -> tuple[tuple[str, int], ...]:
    counts = Counter(pictures.label(row) for row in pictures.rows(row.file for row in group))
    return tuple(counts.most_common(8))


def outliers_section(
    rows: Sequence[Finding], scores: npt.NDArray[np.floating[Any]] | None, threshold: float | None,
    facts: Sequence[tuple[str, str]], pictures: Thumbnails,
) -> Section:  # fmt: skip
    """Return the section about pictures that do not belong; `scores` are of all groups, `facts` of both methods."""
    title = "Pictures that do not belong"
    svg = ""
    if scores is not None and threshold is not None and len(scores):
        svg = data_figures.histogram(
            "outliers", scores, [data_figures.Limit(threshold, above=True)], "score of a picture", noun="pictures"
        )
    groups = by_group(rows)
    many = [name for name in groups if len(groups[name]) > 1]
    alone = [group[0] for group in groups.values() if len(group) == 1]
    alone.sort(key=lambda row: -row.score)
    return Section(
        "outliers", title,
        {
            "svg": svg,
            "facts": facts,
            "groups": [_labelled_group(groups[name], pictures) for name in many[:MOST_GROUPS]],
            "more_groups": max(0, len(many) - MOST_GROUPS),
            "alone": _alone(alone, pictures, MOST_ALONE),
            "more_alone": max(0, len(alone) - MOST_ALONE),
            "none": not rows,
        },
    )  # fmt: skip


def _alone(rows: Sequence[Finding], pictures: Thumbnails, most: int) -> list[tuple[Thumbnail, Finding]]:
    """Return pictures with their findings; of many, the surest three quarters and the least sure quarter."""
    chosen = list(rows) if len(rows) <= most else [*rows[: most - most // 4], *rows[-(most // 4) :]]
    return [
        (pictures.of(at, pictures.label(at), f"score {row.score:.2f}", marked=row.action == "drop"), row)
        for row in chosen
        for at in pictures.rows([row.file])
    ]


def labels_section(
    rows: Sequence[Finding], neighbours: Neighbours | None, facts: Sequence[tuple[str, str]], pictures: Thumbnails
) -> Section:  # fmt: skip
    """Return the section about labels that are probably wrong, the surest first, with their nearest neighbours."""
    title = "Labels that may be wrong"
    if not rows:
        return Section("labels", title, missing=_no_labels(facts))
    ranked = sorted(rows, key=lambda row: -row.score)
    shown = [(row, at) for row in ranked[: 2 * MOST_LABELS] for at in pictures.rows([row.file])][:MOST_LABELS]
    near = dict(neighbours([at for _, at in shown], NEIGHBOURS)) if neighbours is not None and shown else {}
    pairs = Counter(_pair(row, pictures) for row in ranked)
    return Section(
        "labels", title,
        {
            "facts": facts,
            "svg": _score_histogram(rows),
            "rows": [_label_row(row, at, near.get(at, []), pictures) for row, at in shown],
            "pairs": [(*pair, count) for pair, count in pairs.most_common(8) if pair[1]],
            "more": len(ranked) - len(shown),
            "with_neighbours": bool(near),
        },
    )  # fmt: skip


def _no_labels(facts: Sequence[tuple[str, str]]) -> str:
    doubted = "".join(f" Doubted: {text}." for name, text in facts if name == "doubted")
    return f"None: no label is more likely wrong than right.{doubted}"


def _pair(row: Finding, pictures: Thumbnails) -> tuple[str, str]:
    """Return the label that an image has, and the one that it seems to be: of the action, or quoted in the reason."""
    at = pictures.row_of.get(row.file)
    given = pictures.label(at) if at is not None else ""
    for text in (row.action, row.reason):
        if RELABEL in text:
            return given, text.rpartition(RELABEL)[2]
    named = [name for name in pictures.data.classes if name != given and name and name in row.reason]
    return given, max(named, key=len, default="")


def _label_row(row: Finding, at: int, near: Sequence[int], pictures: Thumbnails) -> dict[str, Any]:
    given, seems = _pair(row, pictures)
    return {
        "picture": pictures.of(at),
        "given": given,
        "seems": seems,
        "score": row.score,
        "reason": row.reason,
        "near": [pictures.of(one, pictures.label(one)) for one in near],
    }


def _score_histogram(rows: Sequence[Finding]) -> str:
    if len(rows) < 8:
        return ""
    return data_figures.histogram("labels", np.array([row.score for row in rows]), [], "score of a finding")


def leaks_section(leaks: Leaks, how: str, pictures: Thumbnails) -> Section:
    """Return the section about leaks between given parts; `how` is the command that ends them."""
    title = "Leaks between the parts"
    if not leaks.given:
        return Section(
            "leaks", title,
            missing="The data set brings no parts. Those that hpo makes keep all copies of a picture on one side.",
        )  # fmt: skip
    if not leaks.groups:
        return Section("leaks", title, missing="None: no picture lies in two of the given parts.")
    shown = evenly(range(len(leaks.groups)), MOST_GROUPS // 2)
    grouped = any("same-group" in pair.kinds for pair in leaks.pairs)
    return Section(
        "leaks", title,
        {
            "pairs": [_pair_row(pair) for pair in leaks.pairs],
            "bounds": [
                (pair, [(a, pair.least_accuracy(a)) for a in EXAMPLES]) for pair in leaks.pairs
                if len(pair.rows) and pair.seen_in == "train"
            ],
            "estimates": dict(leaks.estimates),
            "groups": [_leak_group(leaks, number, pictures) for number in shown],
            "more": len(leaks.groups) - len(shown),
            "total": len(leaks.groups),
            "moves": _moves(leaks),
            "rule": RULE,
            "seen": "a copy, or an image of its group," if grouped else "a copy",
            "how": how,
        },
    )  # fmt: skip


def _pair_row(pair: LeakPair) -> dict[str, Any]:
    return {
        "part": pair.part, "seen_in": pair.seen_in, "count": len(pair.rows), "total": pair.total, "share": pair.share,
        "kinds": ", ".join(f"{count:,} {kind.replace('-', ' ')}" for kind, count in pair.kinds.items()),
        "other_label": pair.other_label,
    }  # fmt: skip


def _leak_group(leaks: Leaks, number: int, pictures: Thumbnails) -> ShownGroup:
    group = leaks.groups[number]
    places = evenly(range(len(group.rows)), MOST_OF_GROUP)
    images = tuple(
        pictures.of(int(group.rows[at]), group.parts[at], pictures.label(int(group.rows[at])), group.kinds[at])
        for at in places
    )
    return ShownGroup(
        f"goes to {group.goes_to}", 1.0, "", images, len(group.rows) - len(images)
    )  # fmt: skip


def _moves(leaks: Leaks) -> str:
    counts = Counter(leaks.moves.values())
    return ", ".join(f"{wording.counted(count, 'image')} to {part}" for part, count in counts.most_common())
