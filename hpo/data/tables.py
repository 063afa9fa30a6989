"""A source of images that a CSV names: columns path, label and optionally split. Other columns are left out by name."""

from __future__ import annotations

import codecs
import csv
import io
import os
import re
import stat
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from hpo.data import digests
from hpo.data.dataset import LeftOut, PartName
from hpo.data.folders import read_file
from hpo.data.names import class_name, class_notes, names_as_written, part_notes, part_of, shortened, unused_notes
from hpo.data.records import CHUNK, Listing, Read, Record
from hpo.errors import DataError

_NEEDED = ("path", "label")

_USED = (*_NEEDED, "split")

_OTHER_NAMES = {
    "path": "file filename filepath file_name file_path image image_path imagepath image_file image_name image_id img "
    "img_path name",
    "label": "labels class classes class_name classname class_id category target y species diagnosis",
}
"""Frequent other names for our columns. They are suggested where ours is missing, never read."""

_DELIMITERS = (",", ";", "\t", "|")

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass(frozen=True, slots=True)
class _TableRow:
    path: str
    label: str
    given: PartName | None
    line: int


@dataclass(frozen=True)
class _Table:
    rows: list[_TableRow]
    left_out: tuple[str, ...]
    """The names of the columns that are not read."""
    notes: tuple[str, ...]
    cells: dict[str, list[str]]
    """Name -> cells of each column, read or not; the last of several columns of a name."""


class TableSource:
    """A CSV with a header, separated by `,` `;` `|` or tabs. Paths are relative to its folder; rows keep order."""

    chunk = CHUNK

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def _table(self) -> _Table:
        with translate_faults(self.path):
            return _parse_table(decode_text(self.path.read_bytes()), str(self.path))

    @cached_property
    def _files(self) -> list[tuple[Path, os.stat_result]]:
        return [self._locate(row) for row in self._table.rows]

    def key(self) -> str:
        """Return the digest of path and stamp of the table and of every image that it names."""
        stamps = (f"{file}\0{digests.stamp(status)}" for file, status in self._files)
        return digests.of_lines([digests.of_file(self.path), *stamps])

    def listing(self) -> Listing:
        """Return the listing; classes are the labels, sorted. Raise DataError for an image with two labels or parts."""
        table, where = self._table, str(self.path)
        names = {row.label: class_name(row.label, where) for row in table.rows}
        number = {name: position for position, name in enumerate(sorted(set(names.values())))}
        records = tuple(Record(row.path, number[names[row.label]], row.given) for row in table.rows)
        left_out = (LeftOut("column", len(table.left_out), table.left_out),) if table.left_out else ()
        notes = (*table.notes, *self._check_repeated(names), *class_notes(tuple(number), names))
        return Listing(tuple(number), records, left_out, notes, names_as_written(tuple(number), names))

    def columns(self) -> tuple[str, ...]:
        """Return the names of the columns that are not read and have a name."""
        return tuple(name for name in self._table.left_out if name in self._table.cells)

    def column(self, name: str) -> dict[str, str]:
        """Return image -> its cell in a column that is not read. Raise DataError for an image with two of them."""
        found: dict[str, str] = {}
        for row, cell in zip(self._table.rows, self._table.cells[name], strict=True):
            if found.setdefault(row.path, cell) != cell:
                raise DataError(
                    f"{self.path} names {row.path} with the {name} {found[row.path]!r} and {cell!r}: leave one row out"
                )
        return found

    @contextmanager
    def reads(self) -> Iterator[Iterator[Read]]:
        """Yield the reads; each opens one file."""
        yield (partial(read_file, file) for file, _ in self._files)

    def _locate(self, row: _TableRow) -> tuple[Path, os.stat_result]:
        """Return the file that a row names."""
        for file in _spellings(self.path.parent, row.path):
            try:
                status = file.stat()
            except (FileNotFoundError, NotADirectoryError, ValueError):
                continue
            except OSError as error:
                raise DataError(
                    f"{row.path}, named by {self.path}, cannot be opened ({error.strerror}): mend it or leave it out"
                ) from None
            if stat.S_ISREG(status.st_mode):
                return file, status
        raise DataError(
            f"{row.path}, named by {self.path}, is not a file beside it: mend the path or leave the row out"
        )

    def _check_repeated(self, names: dict[str, str]) -> list[str]:
        """Return a line on images that are named more than once. Raise DataError if their rows differ."""
        rows: dict[str, list[_TableRow]] = defaultdict(list)
        for row, (file, _) in zip(self._table.rows, self._files, strict=True):
            rows[os.path.normpath(file)].append(row)
        repeated = [group for group in rows.values() if len(group) > 1]
        for group in repeated:
            first = group[0]
            for other in group[1:]:
                theirs = (names[other.label], other.given)
                if theirs != (names[first.label], first.given):
                    raise DataError(
                        f"{self.path} names {first.path} as {_describe_row(first)} in line {first.line} and as "
                        f"{_describe_row(other)} in line {other.line}: leave one of the rows out"
                    )
        if not repeated:
            return []
        shown = [f"{group[0].path} (lines {', '.join(str(row.line) for row in group)})" for group in repeated]
        which = "1 image is" if len(repeated) == 1 else f"{len(repeated):,} images are"
        return [f"{which} named by more than one row: {shortened(shown)}"]


def listed_files(path: Path) -> list[tuple[str, Path]]:
    """Return each cell of the column `path` of a CSV with the file that it names; other columns are ignored.

    A missing file is returned as it is named. Raise DataError for a CSV without that column or with an empty cell.
    """
    with translate_faults(path):
        reader, header, _, skipped = _open_reader(decode_text(path.read_bytes()), ("path",), str(path))
        rows = [(reader.line_num + skipped, cells) for cells in reader if not is_blank(cells)]
    if not rows:
        raise DataError(f"{path} has a header but no rows: add one row per image")
    at, names = header.index("path"), []
    for line, cells in rows:
        names.append(cells[at].strip() if at < len(cells) else "")
        if not names[-1]:
            raise DataError(f"{path}, line {line}: path is empty, but every row needs one")
    return [(name, next(filter(Path.is_file, _spellings(path.parent, name)), path.parent / name)) for name in names]


def _spellings(folder: Path, name: str) -> Iterator[Path]:
    r"""Return the files that a name in a table may mean: as written, with `/` for `\`, or in the other Unicode form."""
    slashed = name.replace("\\", "/")
    forms = (unicodedata.normalize(form, slashed) for form in ("NFC", "NFD"))
    return (folder / spelled for spelled in dict.fromkeys([name, slashed, *forms]))


@contextmanager
def translate_faults(path: Path) -> Iterator[None]:
    """Turn the errors of reading a CSV into a DataError."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{path} does not exist: give the path of a CSV") from None
    except IsADirectoryError:
        raise DataError(f"{path} is a folder, but must be a CSV") from None
    except OSError as error:
        raise DataError(f"{path} cannot be opened ({error.strerror}): mend its permissions") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not a CSV in UTF-8 ({error}): save it as one") from None
    except csv.Error as error:
        why = str(error)
        if "field limit" in why:
            why = f"a cell has more than {csv.field_size_limit():,} letters, which is often a quote that is not closed"
        raise DataError(f"{path} is not a CSV that can be read ({why}): mend it") from None


def _describe_row(row: _TableRow) -> str:
    return f"{row.label} of {row.given}" if row.given else row.label


def decode_text(data: bytes) -> str:
    """Decode the text of a file as UTF-8, or as its byte order mark says."""
    return data.decode(next((encoding for mark, encoding in _MARKS if data.startswith(mark)), "utf-8"))


def _parse_table(text: str, where: str) -> _Table:
    reader, header, written, skipped = _open_reader(text, _NEEDED, where)
    column = {name: header.index(name) for name in _USED if name in header}
    rows, values = [], [list[str]() for _ in header]
    for cells in reader:
        if is_blank(cells):
            continue
        _refuse_extra_cells(cells, header, f"{where}, line {reader.line_num + skipped}", reader.dialect.delimiter)
        padded = [cell.strip() for cell in cells] + [""] * (len(header) - len(cells))
        rows.append(_check_row({name: padded[at] for name, at in column.items()}, reader.line_num + skipped, where))
        for at in range(len(header)):
            values[at].append(padded[at])
    if not rows:
        raise DataError(f"{where} has a header but no rows: add one row per image")
    different = [set(cells) for cells in values]
    others = _unread_columns(header, written, different, column)
    splits = different[column["split"]] if "split" in column else set()
    notes = [*_split_notes(splits), *unused_notes("column", others, split_known="split" in column)]
    return _Table(rows, tuple(others), tuple(notes), dict(zip(written, values, strict=True)))


def _unread_columns(
    header: Sequence[str], written: Sequence[str], values: Sequence[set[str]], read: Collection[str]
) -> dict[str, set[str]]:
    """Return name -> different values of each column that is not read; empty columns without a name are ignored."""
    return {
        written[at] or "(unnamed)": values[at]
        for at, name in enumerate(header)
        if name not in read and (name or values[at] - {""})
    }


def is_blank(cells: Sequence[str]) -> bool:
    """Return whether all cells of a row are empty."""
    return not any(cell.strip() for cell in cells)


def _split_notes(values: Collection[str]) -> list[str]:
    """Return `part_notes` on the values of the column split."""
    return part_notes({value: part for value in sorted(values) if (part := part_of(value)) and part != "unclear"})


def _open_reader(text: str, needed: Sequence[str], where: str) -> tuple[Any, list[str], list[str], int]:
    """Return a reader of the rows, the checked header (normalised, and as written), and the lines skipped before it."""
    delimiter, text, skipped = find_delimiter(text, needed)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    written = [name.strip() for name in next(reader, [])]
    header = [_normalised(name) for name in written]
    _check_header(header, written, needed, where)
    return reader, header, written, skipped


def find_delimiter(text: str, needed: Sequence[str]) -> tuple[str, str, int]:
    """Return the delimiter, the text from the header on, and how many lines (blank, or Excel's `sep=;`) precede it."""
    lines = text.splitlines(keepends=True)
    at = next((number for number, line in enumerate(lines) if line.strip()), len(lines))
    stated = re.fullmatch(r'"?sep=(.)"?\s*', lines[at]) if at < len(lines) else None
    at += bool(stated)
    rest = "".join(lines[at:])
    if stated:
        return stated[1], rest, at
    first = next(iter(lines[at:]), "")
    cells = {
        mark: {_normalised(cell) for cell in next(csv.reader([first], delimiter=mark), [])} for mark in _DELIMITERS
    }
    fit = [mark for mark in _DELIMITERS if cells[mark].issuperset(needed)]
    return (fit or sorted(_DELIMITERS, key=lambda mark: -len(cells[mark])))[0], rest, at


def _normalised(name: str) -> str:
    return unicodedata.normalize("NFKC", name).strip().lower()


def _check_header(header: Sequence[str], written: Sequence[str], needed: Sequence[str], where: str) -> None:
    """Raise DataError unless each of our columns is there once."""
    missing = [name for name in needed if name not in header]
    if missing:
        raise DataError(
            f"{where} has the columns {', '.join(header) or 'none'}, but must have {' and '.join(needed)}: "
            f"add {' and '.join(missing)}{_rename_column_hint(missing, header, written)}"
        )
    for name in _USED if "label" in needed else needed:
        same = [written[at] for at, other in enumerate(header) if other == name]
        if len(same) > 1:
            raise DataError(
                f"{where} has the columns {' and '.join(same)}, but must have one {name}: remove or rename one"
            )


def _rename_column_hint(missing: Sequence[str], header: Sequence[str], written: Sequence[str]) -> str:
    """Return `, or rename file to path`; empty if no column is another name for a missing one."""
    renames = [
        f"{written[at]} to {name}"
        for name in missing
        for at, other in enumerate(header)
        if other.replace(" ", "_") in _OTHER_NAMES[name].split()
    ]
    return f", or rename {' or '.join(renames)}" if renames else ""


def _refuse_extra_cells(cells: Sequence[str], header: Sequence[str], where: str, delimiter: str) -> None:
    if not is_blank(cells[len(header) :]):
        raise DataError(
            f"{where}: the row has {len(cells)} cells, but the header names {len(header)}: "
            f"put a text that holds {delimiter!r} in quotes"
        )


def _check_row(cells: dict[str, str], line: int, where: str) -> _TableRow:
    for name in _NEEDED:
        if not cells[name]:
            raise DataError(f"{where}, line {line}: {name} is empty, but every row needs one")
    if "split" not in cells:
        return _TableRow(cells["path"], cells["label"], None, line)
    part = part_of(cells["split"])
    if part is None or part == "unclear":
        raise DataError(f"{where}, line {line}: split is {cells['split']!r}, but must be train, val or test")
    return _TableRow(cells["path"], cells["label"], part, line)
