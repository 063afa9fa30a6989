"""Findings on the images of a data set: a table that the data doctor writes, people edit, and a study reads.

    file,finding,group,score,action,reason
    train/eosinophil/17.jpg,outlier,junk-1,0.998,drop,800 copies of one picture under 8 classes

`action` is keep, drop or relabel:CLASS. Spreadsheets may save the table with semicolons, tabs or a byte order mark.
"""

from __future__ import annotations

import csv
import difflib
import io
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo.data.changes import KINDS, DataChanges, FindingKind, groups_of_files
from hpo.data.dataset import PartName
from hpo.data.digests import of_lines
from hpo.data.names import plain, shortened
from hpo.data.tables import decode_text, find_delimiter, is_blank, translate_faults
from hpo.errors import DataError, UsageError
from hpo.files import atomic_text_file
from hpo.spreadsheet import QUOTE, CsvRows

if TYPE_CHECKING:
    import pandas

COLUMNS = ("file", "finding", "group", "score", "action", "reason")

RELABEL = "relabel:"

_NEEDED = ("file", "finding", "action")

_TOGETHER: tuple[FindingKind, ...] = ("copy", "conflict", "outlier", "leak")
"""The findings whose groups are pictures of one thing, so that they belong into one part."""

_ZIP = b"PK\x03\x04"
"""The first bytes of a zip, as workbooks of spreadsheets are."""

_LARGEST = 256 * 2**20
"""The size in bytes of the largest table that is read."""


@dataclass(frozen=True)
class Finding:
    """One thing that may be wrong with one image."""

    file: str
    """The path or key of the image below the data set."""
    finding: FindingKind
    group: str
    """The name of the group of images that it belongs to; "" for an image alone."""
    score: float
    """From 0 to 1; larger is surer."""
    action: str
    """`keep`, `drop` or `relabel:CLASS`."""
    reason: str
    """One plain sentence."""


@dataclass(frozen=True)
class Findings:
    """The findings on a data set, in the order in which people read them."""

    rows: tuple[Finding, ...] = ()
    source: str = ""
    """Where the findings come from, for people: the name of their file."""
    notes: tuple[str, ...] = ()
    """One line for each thing in the file that is not used."""
    lines: tuple[int, ...] = field(default=(), compare=False)
    """The line of each row in its file; empty if there is none."""

    def __len__(self) -> int:
        return len(self.rows)

    def counts(self) -> dict[FindingKind, dict[str, int]]:
        """Return finding -> keep, drop and relabel -> the number of files, for the findings that there are."""
        seen = {(row.finding, row.action.partition(":")[0], row.file) for row in self.rows}
        counted = Counter((kind, action) for kind, action, _ in seen)
        return {
            kind: {action: counted[kind, action] for action in ("keep", "drop", "relabel")}
            for kind in KINDS
            if any(row.finding == kind for row in self.rows)
        }

    def to_csv(self) -> str:
        """Return the text of the table, with cells that no spreadsheet reads as formulas."""
        text = io.StringIO()
        table = CsvRows(text)
        table.write(COLUMNS)
        for row in self.rows:
            table.write([row.file, row.finding, row.group, f"{row.score:.4f}", row.action, row.reason])
        return text.getvalue()

    def write_csv(self, path: Path) -> None:
        """Write the table to a file, which appears whole or not at all."""
        with atomic_text_file(path) as file:
            file.write(self.to_csv())

    def to_pandas(self) -> pandas.DataFrame:
        """Return the rows as a data frame with the columns of the table. UsageError where pandas is not installed."""
        try:
            import pandas
        except ImportError:
            raise UsageError("to_pandas needs pandas, which is not installed: pip install pandas") from None
        return pandas.DataFrame([[getattr(row, name) for name in COLUMNS] for row in self.rows], columns=list(COLUMNS))

    @cached_property
    def digest(self) -> str:
        """32 hex digits of files, findings, groups and actions, in any order; scores and reasons do not count."""
        return of_lines(sorted(f"{row.file}\0{row.finding}\0{row.group}\0{row.action}" for row in self.rows))

    def changes(self, parts: Mapping[str, PartName] | None = None) -> DataChanges:
        """Return what the actions change; `parts` are the files that are moved to another part.

        A file that one row drops and another keeps is dropped. Raise DataError for one that is dropped and relabelled,
        or gets two classes. Images of one group that stay belong into one part.
        """
        acting: dict[str, int] = {}
        for number, row in enumerate(self.rows):
            if row.action == "keep":
                continue
            if row.action != self.rows[acting.setdefault(row.file, number)].action:
                raise DataError(self._contradiction(acting[row.file], number))
        actions = {file: self.rows[number] for file, number in acting.items()}
        drops = {file: row.finding for file, row in actions.items() if row.action == "drop"}
        relabels = {file: row.action.removeprefix(RELABEL) for file, row in actions.items() if row.action != "drop"}
        moved = {file: part for file, part in (parts or {}).items() if file not in drops}
        return DataChanges(drops, relabels, self._groups(drops), moved, Path(self.source).name, self.digest)

    def check(self, files: Iterable[str], classes: Sequence[str]) -> Findings:
        """Return the findings with files and classes as the data set, which has these, writes them.

        Raise DataError for the first file or class that it does not have.
        """
        known = set(files)
        alike: dict[str, str] = {}
        for file in known:
            alike.setdefault(_folded(file), file)
        rows = []
        for number, row in enumerate(self.rows):
            found = [one for one in _spellings(row.file, alike) if one in known]
            if not found:
                raise DataError(f"{self._where(number)}: {_unknown('file', row.file, alike.values())}")
            action = row.action
            if action.startswith(RELABEL):
                action = RELABEL + self._class(number, action.removeprefix(RELABEL), classes)
            rows.append(Finding(found[0], row.finding, row.group, row.score, action, row.reason))
        return Findings(tuple(rows), self.source, self.notes, self.lines)

    def _class(self, number: int, name: str, classes: Sequence[str]) -> str:
        if plain(name) not in classes:
            raise DataError(
                f"{self._where(number)}: class {name!r} is unknown, the data set has {shortened(list(classes), 12)}"
            )
        return plain(name)

    def _groups(self, dropped: Mapping[str, FindingKind]) -> dict[str, str]:
        members: dict[str, list[str]] = {}
        for row in self.rows:
            if row.group and row.finding in _TOGETHER and row.file not in dropped:
                members.setdefault(row.group, []).append(row.file)
        return groups_of_files(members.values())

    def _contradiction(self, first: int, second: int) -> str:
        one, two = self.rows[first], self.rows[second]
        return (
            f"{self._where(second)}: the action for {two.file} is {two.action}, but {self._where(first, name=False)} "
            f"says {one.action}: leave one of the two, and write keep in the other"
        )

    def _where(self, number: int, *, name: bool = True) -> str:
        """Return the place of a row, for a message."""
        place = f"line {self.lines[number]}" if self.lines else f"row {number + 1}"
        return f"{self.source or 'findings'}, {place}" if name else place


def read_findings(path: Path) -> Findings:
    """Read a table of findings; `Findings.check` then compares it with the data set.

    Raise DataError, with the line, for a table that breaks a rule. Columns may stand in any order; others than ours
    are left out, and the notes say so.
    """
    with translate_faults(path):
        if path.stat().st_size > _LARGEST:
            raise DataError(f"{path} has {path.stat().st_size / 2**20:,.0f} MB, but a findings file at most 256 MB")
        content = path.read_bytes()
        if content.startswith(_ZIP):
            raise DataError(f"{path} is a workbook or another zip, but must be a table as text: save it as CSV (UTF-8)")
        text = decode_text(content)
        delimiter, text, skipped = find_delimiter(text, _NEEDED)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        header = [plain(cell).lower() for cell in next(reader, [])]
        _check_header(header, path)
        rows, lines = [], []
        for cells in _unwrapped(reader, delimiter):
            if not is_blank(cells):
                lines.append(reader.line_num + skipped)
                where = f"{path}, line {lines[-1]}"
                if not is_blank(cells[len(header) :]):
                    raise DataError(
                        f"{where}: the row has {len(cells)} cells, but the header names {len(header)}: put a text that "
                        f"holds {delimiter!r} in quotes"
                    )
                rows.append(_parse(dict(zip(header, map(_unprotected, cells), strict=False)), where))
    others = [name for name in header if name and name not in COLUMNS]
    notes = (f"{path.name}: {_columns(others)} not read",) if others else ()
    return Findings(tuple(rows), str(path), notes, tuple(lines))


def _columns(names: Sequence[str]) -> str:
    return f"column {names[0]} is" if len(names) == 1 else f"columns {', '.join(names)} are"


def _check_header(header: Sequence[str], path: Path) -> None:
    """Raise DataError unless each of our columns is there at most once, and file, finding and action are."""
    if missing := [name for name in _NEEDED if name not in header]:
        there = shortened([name[:40] for name in header], 8) or "none"
        raise DataError(
            f"{path} has the columns {there}, but a findings file has {', '.join(COLUMNS)}: add "
            f"{' and '.join(missing)}, or write a new one with `hpo data DATA --out findings.csv`"
        )
    if twice := [name for name in COLUMNS if header.count(name) > 1]:
        raise DataError(f"{path} has two columns {twice[0]}: remove or rename one")


def _unwrapped(reader: Iterator[list[str]], delimiter: str) -> Iterator[list[str]]:
    """Yield the rows; one that a spreadsheet took for a single cell, and put in quotes as that, is taken apart."""
    for cells in reader:
        alone = bool(cells) and delimiter in cells[0] and is_blank(cells[1:])
        yield next(csv.reader([cells[0]], delimiter=delimiter)) if alone else cells


def _unprotected(cell: str) -> str:
    """Return the text of a cell without the apostrophe that `plain_cell` puts there."""
    return cell[1:] if cell.startswith(QUOTE) else cell


def _parse(written: Mapping[str, str], where: str) -> Finding:
    """Return the finding in a row, with files and classes as they are written."""
    if not written.get("file", "").strip():
        raise DataError(f"{where}: file is empty, but every row needs one")
    cells = {name: cell.strip() for name, cell in written.items()}
    kind = cells.get("finding", "").lower()
    if kind not in KINDS:
        raise DataError(f"{where}: finding is {cells.get('finding', '')!r}, but must be one of {', '.join(KINDS)}")
    action, reason = _action(cells.get("action", ""), where), cells.get("reason", "")
    group, score = cells.get("group", ""), _score(cells.get("score", ""), where)
    return Finding(written["file"], kind, group, score, action, reason)  # the names of some files end in blanks


def _action(text: str, where: str) -> str:
    word, colon, name = text.partition(":")
    word = word.strip().lower()
    if word in ("keep", "drop") and not colon:
        return word
    if word == "relabel" and name.strip():
        return RELABEL + name.strip()
    raise DataError(f"{where}: action is {text!r}, but must be keep, drop or relabel:CLASS")


def _score(text: str, where: str) -> float:
    """Return a score; spreadsheets of some languages write `0,98`."""
    try:
        score = float(text.replace(",", ".") or 0)
    except ValueError:
        score = math.nan
    if not 0 <= score <= 1:
        raise DataError(f"{where}: score is {text!r}, but must be a number from 0 to 1")
    return score


def _folded(file: str) -> str:
    return plain(file.replace("\\", "/")).removeprefix("./")


def _spellings(file: str, alike: Mapping[str, str]) -> list[str]:
    """Return the files that a name in a table may mean: as written, behind an apostrophe, in another Unicode form."""
    alone = file.strip()
    return [
        file,
        QUOTE + file,
        alone,
        QUOTE + alone,
        *(found for form in (_folded(file), file) if (found := alike.get(form))),
    ]


def _unknown(what: str, name: str, known: Iterable[str]) -> str:
    """Return the message on a name that the data set does not have, with the most similar one."""
    some = list(known)[:20_000]
    close = difflib.get_close_matches(name, some, n=1, cutoff=0.8) or sorted(some)[:1]
    example = f", which names its images as {close[0]}" if close else ""
    return f"{what} {name!r} is not in the data set{example}; remove the row, or give the data that it was made for"


def to_json(findings: Findings) -> list[dict[str, Any]]:
    """Return the rows as JSON-ready values."""
    return [{name: getattr(row, name) for name in COLUMNS} for row in findings.rows]
