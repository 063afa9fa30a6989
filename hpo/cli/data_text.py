"""The results of the data doctor, in lines for a terminal and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpo.data.changes import FindingKind
    from hpo.data.findings import Finding
    from hpo.inspection.inspect_data import DataInspection

SURE: dict[FindingKind, str] = {
    "unreadable": "certain",
    "outlier": "does not belong: dropped only where that is sure",
    "conflict": "one picture under several classes: confirmed on aligned pixels, no label is sure",
    "copy": "confirmed on aligned pixels; one of each group is kept",
    "label": "more likely wrong than right, by the score: look at them, none is changed by itself",
    "leak": "in two of the given parts: as a copy that is confirmed on aligned pixels, or by its group",
    "odd": "unlike the others; only blank ones are dropped",
}
"""Kind of finding -> how sure it is, in words, in the order in which they are shown."""

_GROUPS = 5
"""The number of groups that are named."""

_WIDEST = 60


def inspection_lines(found: DataInspection, table: Path | None, page: Path, home: Path | None = None) -> Iterator[str]:
    """Yield the summary: the data, the findings by kind, the largest groups, how sure, the time, the next commands."""
    summary = found.data.summary
    classes = "1 class" if len(summary.classes) == 1 else f"{len(summary.classes):,} classes"
    unreadable = f" that can be read, {len(summary.unreadable):,} that cannot" if summary.unreadable else ""
    yield f"{found.data.path}: {len(found.data):,} images{unreadable}, {classes}"
    yield from summary.lines()
    yield ""
    yield from _findings(found)
    yield from _groups(found)
    yield from _moves(found)
    if found.outliers:
        yield from (f"outliers: {line}" for line in found.outliers.lines())
    if found.copies.groups:
        yield f"copies: {found.copies.agreement.line()}"
    if found.labels and found.labels.doubted.any():
        yield f"labels: {'; '.join(found.labels.lines())}"
    if found.target:
        yield from found.target.lines()
        if found.groups:
            yield f"grouped by {found.groups.word}: probe and nearest picture are of other groups than what is measured"
    for step, reason in found.skipped.items():
        yield f"left out: {step}: {reason}"
    spans = ", ".join(f"{step} {seconds:.1f}" for step, seconds in found.seconds.items())
    yield f"took {sum(found.seconds.values()):.1f} s ({spans})"
    yield ""
    yield from _next(found, table, page, home)


def inspection_json(found: DataInspection, table: Path | None, page: Path, home: Path | None = None) -> dict[str, Any]:
    """Return JSON-ready values: everything that the lines say, and each finding."""
    from hpo.inspection.next_commands import NextCommands

    target, agreement = found.target, found.copies.agreement
    return {
        "data": str(found.data.path),
        "images": len(found.data),
        "fingerprint": found.data.fingerprint,
        "summary": found.data.summary.to_json(),
        "groups": found.groups.to_json() if found.groups else None,
        "counts": found.findings.counts(),
        "findings": [asdict(row) for row in found.findings.rows],
        "copies": {
            "groups": len(found.copies.groups),
            "extra": found.copies.extra,
            "equal_labels": agreement.equal,
            "equal_labels_by_chance": agreement.chance,
            "estimated_precision": agreement.precision,
        },
        "outlier_threshold": found.outliers.threshold if found.outliers else None,
        "embeddings": found.embeddings.origin if found.embeddings else None,
        "target": asdict(target) if target else None,
        "skipped": dict(found.skipped),
        "seconds": dict(found.seconds),
        "table": str(table) if table else None,
        "page": str(page),
        "next": list(NextCommands.of(found, home).lines(table)) if len(found.findings) else [],
    }


def _findings(found: DataInspection) -> Iterator[str]:
    counts = found.findings.counts()
    if not counts:
        yield "nothing was found"
        return
    rows = [["finding", "images", "drop", "keep", ""]]
    for kind, sure in SURE.items():
        if kind in counts:
            actions = counts[kind]
            rows.append([kind, f"{sum(actions.values()):,}", f"{actions['drop']:,}", f"{actions['keep']:,}", sure])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, *numbers, sure in rows:
        cells = [name.ljust(widths[0]), *(n.rjust(w) for n, w in zip(numbers, widths[1:4], strict=True)), sure]
        yield "  ".join(cells).rstrip()


def _groups(found: DataInspection) -> Iterator[str]:
    """Yield the largest groups, each named by its first file; groups of the same images are said once."""
    sizes: Counter[tuple[str, str]] = Counter()
    first: dict[tuple[str, str], Finding] = {}
    for row in found.findings.rows:
        if row.group:
            sizes[row.finding, row.group] += 1
            first.setdefault((row.finding, row.group), row)
    largest = [(key, count) for key, count in sizes.most_common(4 * _GROUPS) if count > 2]
    shown: set[str] = set()
    for key, count in largest:
        row = first[key]
        if len(shown) < _GROUPS and row.file not in shown:
            yield f"  {count:,} images, {row.finding} {row.group}: {_shorten(row.file)}: {row.reason}"
            shown.add(row.file)


def _moves(found: DataInspection) -> Iterator[str]:
    """Yield what `--fix-leaks` would do."""
    if moves := Counter(found.leaks.moves.values()):
        moved = ", ".join(f"{count:,} to {part}" for part, count in moves.most_common())
        yield f"leaks: --fix-leaks moves images between the given parts: {moved}"


def _shorten(file: str) -> str:
    file = file if file.isprintable() else repr(file)
    return file if len(file) <= _WIDEST else f"…{file[-_WIDEST:]}"


def _next(found: DataInspection, table: Path | None, page: Path, home: Path | None) -> Iterator[str]:
    """Yield the commands to paste."""
    from hpo.inspection.next_commands import NextCommands

    yield f"{page}: opens in any browser"
    if table is not None:
        count = len(found.findings)
        yield f"{table}: {count:,} {'finding' if count == 1 else 'findings'}, to be edited"
    if not len(found.findings):
        return
    yield "next:"
    yield from (f"  {line}" for line in NextCommands.of(found, home).lines(table))
