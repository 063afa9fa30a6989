"""The description of a data set: one value, shown to people in lines and to programs as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from hpo.data.changes import DataChanges
from hpo.data.dataset import Dataset, LeftOut, Part, Unreadable, WholeData
from hpo.data.names import natural_key

_CLASSES = 12
"""The number of classes up to which all are listed; of more, the first, the smallest and the largest are."""

_FIRST = 6

_UNREADABLE = 10
"""The number of unreadable images that are listed for people."""


@dataclass(frozen=True)
class DataSummary:
    """Classes with counts per part, and everything that was left out, skipped or noted."""

    classes: tuple[str, ...]
    counts: Mapping[str, Sequence[int]]
    """Name of a part -> images per class, in the order of `classes`."""
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()
    unreadable: tuple[Unreadable, ...] = ()
    duplicates: int | None = 0
    """The number of duplicates, as in `Dataset`; None if they were not counted."""
    leaking: int | None = 0
    changes: DataChanges = field(default_factory=DataChanges)
    """The decisions on single images that are applied."""

    def lines(self) -> list[str]:
        """Return the whole for people: a table of the classes, then the remarks."""
        return [*(f"  {line}" for line in self._class_lines()), *self.remarks()]

    def remarks(self) -> list[str]:
        """Return one line for each thing that was left out, noted or skipped."""
        lines: list[str] = []
        if self.changes:
            lines.append(self.changes.line())
        if self.left_out:
            lines.append(left_out_line(self.left_out))
        lines += self.notes
        if self.duplicates:
            lines.append(self._duplicates_line())
        if self.unreadable:
            lines.append(f"{_images(len(self.unreadable))} unreadable and skipped:")
            lines += [f"  {image.name}: {image.reason}" for image in self.unreadable[:_UNREADABLE]]
            if len(self.unreadable) > _UNREADABLE:
                lines.append(f"  and {len(self.unreadable) - _UNREADABLE:,} more")
        return lines

    def to_json(self) -> dict[str, Any]:
        """Return JSON-ready values with every class."""
        return {
            "classes": [
                {"name": name, **{part: int(counts[number]) for part, counts in self.counts.items()}}
                for number, name in enumerate(self.classes)
            ],
            "left_out": [{**asdict(entry), "names": list(entry.names)} for entry in self.left_out],
            "notes": list(self.notes),
            "unreadable": [asdict(image) for image in self.unreadable],
            "duplicates": self.duplicates,
            "leaking": self.leaking,
            "changes": self.changes.counts() if self.changes else None,
        }

    def _duplicates_line(self) -> str:
        if self.duplicates == 1:
            return f"1 image is an exact duplicate{', on two sides of the given split' if self.leaking else ''}"
        leak = f", {self.leaking:,} of them on two sides of the given split" if self.leaking else ""
        return f"{self.duplicates:,} images are exact duplicates{leak}"

    def _class_lines(self) -> list[str]:
        every = sorted(range(len(self.classes)), key=lambda number: natural_key(self.classes[number]))
        shown = every if len(self.classes) <= _CLASSES else every[:_FIRST]
        lines = _table([["class", *self.counts]] + [self._row(number) for number in shown])
        if hidden := len(every) - len(shown):
            totals = np.sum([list(counts) for counts in self.counts.values()], axis=0)
            smallest, largest = (int(position) for position in (np.argmin(totals), np.argmax(totals)))
            if totals[smallest] == totals[largest]:
                lines.append(f"… and {hidden:,} more, every class has {totals[smallest]:,} images")
            else:
                lines.append(
                    f"… and {hidden:,} more; the smallest is {self.classes[smallest]} with {totals[smallest]:,} "
                    f"images, the largest {self.classes[largest]} with {totals[largest]:,}"
                )
        return lines

    def _row(self, number: int) -> list[str]:
        name = self.classes[number]
        return [name if name.isprintable() else repr(name), *(f"{counts[number]:,}" for counts in self.counts.values())]


def summarise(dataset: Dataset) -> DataSummary:
    """Describe a split data set."""
    return DataSummary(
        classes=dataset.classes,
        counts=dataset.class_counts(),
        left_out=dataset.left_out,
        notes=dataset.notes,
        unreadable=dataset.unreadable,
        duplicates=dataset.duplicates,
        leaking=dataset.leaking,
        changes=dataset.changes,
    )


def summarise_part(whole: WholeData, part: Part, name: str) -> DataSummary:
    """Describe the images `part`, called `name`, of a data set that was opened whole."""
    return DataSummary(
        classes=whole.classes,
        counts={name: np.bincount(part.labels, minlength=len(whole.classes)).tolist()},
        left_out=whole.left_out,
        notes=whole.notes,
        unreadable=whole.unreadable,
        duplicates=whole.duplicates,
        leaking=whole.leaking,
    )


def left_out_line(left_out: Iterable[LeftOut]) -> str:
    """Return `left out: 2 .heic, 1 without a suffix; arrays valid_images; column patient`."""
    files = [f"{entry.count:,} {entry.kind}" for entry in left_out if not _is_named(entry)]
    named = [
        f"{entry.kind}{'s' if entry.count > 1 else ''} {', '.join(entry.names)}"
        for entry in left_out
        if _is_named(entry)
    ]
    return f"left out: {'; '.join([*([', '.join(files)] if files else []), *named])}"


def _is_named(entry: LeftOut) -> bool:
    """Return whether all things of this kind are named: arrays and columns are few, files are counted."""
    return entry.kind in ("array", "column")


def _images(count: int) -> str:
    return "1 image is" if count == 1 else f"{count:,} images are"


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of cells as lines: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
