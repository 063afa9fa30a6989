"""The page of a data set: what was found in it, how sure that is, what it costs, and the commands that act on it."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

import numpy as np

from hpo.data.changes import FindingKind
from hpo.data.findings import Finding
from hpo.data.summary import left_out_line
from hpo.data.symmetries import symmetry_in_words
from hpo.inspection.copies import Copies
from hpo.inspection.inspect_data import InspectionOptions
from hpo.inspection.inspected_data import InspectedData
from hpo.inspection.next_commands import RANDOM, TABLE, NextCommands
from hpo.report import data_figures, wording
from hpo.report.data_evidence import DataEvidence
from hpo.report.data_finding_sections import (
    conflicts_section,
    copies_section,
    labels_section,
    leaks_section,
    outliers_section,
)
from hpo.report.data_overview_sections import balance_section, classes_section, map_section, odd_section
from hpo.report.data_pictures import Thumbnails
from hpo.report.page import Page, Section, Tile, render

NAMES: dict[FindingKind, tuple[str, str]] = {
    "unreadable": ("unreadable files", "certain"),
    "copy": ("copies of a picture", "the aligned pixels agree; look at those of a similarity near the threshold"),
    "conflict": ("copies under several labels", "the copies are confirmed; which label is right is not known"),
    "outlier": ("pictures that do not belong", "far from all others; a rare but right picture may be among them"),
    "label": (
        "labels that may be wrong",
        "the score is how likely the label is wrong, an estimate: look at them, none is dropped by itself",
    ),
    "leak": ("images in two parts", "as sure as their copies"),
    "odd": ("broken or odd images", "unlike the others; only blank ones are surely useless"),
}
"""Kind of finding -> what it is and how sure it is, in words."""

ANCHORS = {
    "unreadable": "odd", "copy": "copies", "conflict": "conflicts", "outlier": "outliers", "label": "labels",
    "leak": "leaks", "odd": "odd",
}  # fmt: skip


def render_data_page(evidence: DataEvidence) -> str:
    """Return the page of a data set as HTML: one file without scripts, whose size is bounded."""
    return render(data_page(evidence))


def data_page(evidence: DataEvidence) -> Page:
    """Return the page of a data set, from the summary to the single images."""
    pictures = Thumbnails(evidence.data)
    data = evidence.data
    sections = [
        _summary(evidence),
        *_finding_sections(evidence, pictures),
        classes_section(data, {row.file for row in evidence.findings if row.action == "drop"}, pictures),
        balance_section(evidence.imbalance),
        map_section(evidence.map, data, evidence.findings, _why(evidence, "map", "embeddings")),
        _target(evidence),
        _made(evidence),
    ]
    return Page(
        title=data.path.name or str(data.path), kind="data", subtitle=_subtitle(evidence), tiles=_tiles(evidence),
        sections=sections, made=datetime.now(UTC), notes=_notes(data),
    )  # fmt: skip


def _notes(data: InspectedData) -> list[str]:
    """Return how the data were read, as far as it is not a finding of the page."""
    left_out = [left_out_line(data.summary.left_out)] if data.summary.left_out else []
    return [wording.shortened(note, 300) for note in [*left_out, *data.summary.notes]][:5]


def _finding_sections(evidence: DataEvidence, pictures: Thumbnails) -> list[Section]:
    of: dict[str, list[Finding]] = {}
    for row in evidence.findings:
        of.setdefault(row.finding, []).append(row)
    copies, outliers = evidence.copies, of.get("outlier", [])
    sections = []
    if copies is None:
        sections = [_absent(evidence, "copies", "Copies", "copies")]
    else:
        sections = [
            conflicts_section(of.get("conflict", []), {row.file for row in outliers}, pictures),
            copies_section(of.get("copy", []), _turns(copies, evidence.data), _copy_facts(copies), pictures),
        ]
    leaks = evidence.leaks
    how = _following(evidence).run(clean=True, fix_leaks=True)
    if evidence.outlier_scores is None and not outliers:
        first = _absent(evidence, "outliers", "Pictures that do not belong", "outliers", "embeddings")
    else:
        first = outliers_section(
            outliers, evidence.outlier_scores, evidence.outlier_threshold, evidence.outlier_facts, pictures
        )
    labels = of.get("label", [])
    if not evidence.backbone and not labels:
        suspicious = _absent(evidence, "labels", "Labels that may be wrong", "labels", "embeddings")
    else:
        suspicious = labels_section(labels, evidence.neighbours, evidence.label_facts, pictures)
    leaking = (
        _absent(evidence, "leaks", "Leaks between the parts", "leaks", "copies")
        if leaks is None
        else leaks_section(leaks, how, pictures)
    )
    return [first, *sections, suspicious, leaking, odd_section(evidence.odd, pictures)]


def _absent(evidence: DataEvidence, key: str, title: str, *steps: str) -> Section:
    return Section(key, title, missing=_why(evidence, *steps))


def _why(evidence: DataEvidence, *steps: str) -> str:
    """Return why a step was not made: the reason of the first of `steps` that has one."""
    for step in steps:
        if reason := evidence.skipped.get(step):
            return f"{step.capitalize()} were not computed: {reason}" if step != "map" else f"Not drawn: {reason}"
    return f"{steps[-1].capitalize()} were not computed."


def _turns(copies: Copies, data: InspectedData) -> dict[str, str]:
    """Return file -> how it differs from the first of its group of copies, in words."""
    words = {"exact-bytes": "same bytes", "exact-pixels": "same pixels", "near": "almost the same"}
    return {
        data.names[row]: (symmetry_in_words(turn) if kind == "turned" else words[kind]) if place else ""
        for group in copies.groups
        for place, (row, kind, turn) in enumerate(
            zip(group.rows.tolist(), group.kinds, group.orientations, strict=True)
        )
    }


def _copy_facts(copies: Copies) -> list[tuple[str, str]]:
    kinds = Counter(kind for group in copies.groups for kind in group.kinds[1:])
    named = ", ".join(f"{count:,} {kind.replace('-', ' ')}" for kind, count in kinds.most_common())
    extra = wording.counted(copies.extra, "copy", "copies")
    return [
        ("found", f"{extra} of {wording.counted(len(copies.groups), 'picture')}: {named}"),
        ("threshold", f"two pictures count as copies from a similarity of {copies.threshold:.2f} on, once aligned"),
        ("how sure", f"{copies.agreement.line()}. Pictures of one class that look alike pass this test"),
    ]


def _subtitle(evidence: DataEvidence) -> str:
    data, dropped = evidence.data, _dropped(evidence)
    parts = ""
    if data.given is not None:
        counts = Counter(part for part in data.given if part)
        parts = " in given parts: " + ", ".join(f"{counts[p]:,} {p}" for p in ("train", "val", "test") if counts[p])
    unread = len(data.summary.unreadable)
    images = wording.counted(len(data), "image") + (" that can be read" if unread else "")
    also = f", and {unread:,} that cannot be read" if unread else ""
    advice = f"The doctor would leave out {f'{dropped:,}' if dropped else 'none'} of them{also}."
    return f"{images} in {wording.counted(len(data.classes), 'class', 'classes')}{parts}. {advice}"


def _dropped(evidence: DataEvidence) -> int:
    """Return the number of images that can be read and that the doctor would leave out."""
    return len({row.file for row in evidence.findings if row.action == "drop"} & set(evidence.data.names))


def _tiles(evidence: DataEvidence) -> list[Tile]:
    counts, total = _counts(evidence), len(evidence.data)
    dropped = _dropped(evidence)
    tiles = [
        Tile("Would be left out", f"{dropped:,}", f"{wording.percent(dropped / max(1, total), 1)} of the images"),
    ]
    if "outlier" in counts:
        tiles.append(Tile("Do not belong", f"{counts['outlier']:,}", "images, copies included"))
    if evidence.copies is not None:
        tiles.append(Tile("Copies", f"{evidence.copies.extra:,}", f"of {len(evidence.copies.groups):,} pictures"))
    if "label" in counts:
        tiles.append(Tile("Doubtful labels", f"{counts['label']:,}", "to be looked at"))
    if evidence.target is not None:
        tiles.append(Tile("Simple classifier", f"{evidence.target.probe:.3f}", "accuracy without training a network"))
    return tiles


def _counts(evidence: DataEvidence) -> Counter[str]:
    """Return kind of finding -> files."""
    return Counter(kind for kind, _ in {(row.finding, row.file) for row in evidence.findings})


def _summary(evidence: DataEvidence) -> Section:
    """Return the section with a row for each kind of finding, the effect on the classes, and the next commands."""
    counts = _counts(evidence)
    dropped = Counter(
        kind for kind, _ in {(row.finding, row.file) for row in evidence.findings if row.action == "drop"}
    )
    rows = [
        {"what": what, "sure": sure, "count": counts[kind], "dropped": dropped[kind], "anchor": ANCHORS[kind]}
        for kind, (what, sure) in NAMES.items()
        if counts[kind]
    ]
    return Section(
        "found", "What was found",
        {
            "rows": rows, "commands": _commands(evidence) if rows else [], "before_after": _before_after(evidence),
            "skipped": [f"{step}: {reason}" for step, reason in evidence.skipped.items()],
        },
    )  # fmt: skip


def _commands(evidence: DataEvidence) -> list[tuple[str, list[str]]]:
    """Return purpose and commands for each way to act on the findings."""
    table, following = evidence.table or TABLE, _following(evidence)
    again = [] if evidence.table else [following.data(table)]
    why = f" ({RANDOM})" if following.random_weights else ""
    commands = [
        (f"run with the doctor's own choices, at its safe thresholds{why}", [following.run(clean=True)]),
        ("look at each finding, change what you see otherwise, and run with that",
         [*again, following.run(findings=table)]),
    ]  # fmt: skip
    if evidence.leaks is not None and evidence.leaks.groups:
        commands.append(("end the leaks between the parts too", [following.run(clean=True, fix_leaks=True)]))
    return commands


def _following(evidence: DataEvidence) -> NextCommands:
    """Return the commands that act on the findings."""
    data = evidence.data
    return evidence.commands or NextCommands(data.path, InspectionOptions(group_by=data.group_by))


def _before_after(evidence: DataEvidence) -> list[tuple[str, int, int]]:
    """Return class, its images, and its images after cleaning, for the classes that lose most."""
    data = evidence.data
    kept = np.ones(len(data), dtype=bool)
    gone = {row.file for row in evidence.findings if row.action == "drop"}
    kept[[row for row, name in enumerate(data.names) if name in gone]] = False
    before = np.bincount(data.labels, minlength=len(data.classes))
    after = np.bincount(data.labels[kept], minlength=len(data.classes))
    if (before == after).all():
        return []
    ranked = np.argsort(-(before - after), kind="stable")[:12].tolist()
    return [(data.classes[i], int(before[i]), int(after[i])) for i in ranked]


def _target(evidence: DataEvidence) -> Section:
    title, found = "What accuracy is in reach?", evidence.target
    if found is None:
        return Section("target", title, missing=_why(evidence, "target", "embeddings"))
    svg = ""
    if len(found.shares) > 1:
        svg = data_figures.image_curve(
            found.shares, found.accuracies, found.drawn_bound, "simple classifier (linear probe)"
        )
    return Section("target", title, {"facts": found.facts, "svg": svg, "note": found.note})


def _made(evidence: DataEvidence) -> Section:
    data = evidence.data
    rows = [
        ("data", f"fingerprint {data.fingerprint[:12]}"),
        ("embeddings", evidence.backbone or _why(evidence, "embeddings")),
        ("time", ", ".join(f"{step} {wording.span(one)}" for step, one in evidence.seconds.items()) or "not measured"),
    ]
    return Section("made", "How this page was made", {"facts": rows})
