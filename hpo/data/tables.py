"""Images named by a CSV: columns path, label and, if wanted, split."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

from hpo.data import digests
from hpo.data.dataset import PartName
from hpo.data.folders import read_file
from hpo.data.records import CHUNK, PART_OF, Listing, Read, Record
from hpo.errors import DataError

_COLUMNS = ("path", "label")


class _Row(NamedTuple):
    path: str
    label: str
    given: PartName | None


class TableSource:
    """A CSV with a header; paths are relative to its folder, rows keep their order."""

    chunk = CHUNK

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def _rows(self) -> list[_Row]:
        try:
            with self.path.open(encoding="utf-8-sig", newline="") as stream:
                return list(self._parse(csv.DictReader(stream)))
        except OSError as error:
            raise DataError(f"{self.path} cannot be opened ({error.strerror}): mend its permissions") from None
        except (UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{self.path} is not a CSV in UTF-8 ({error}): save it as one") from None

    def key(self) -> str:
        """Digest of the table's path and stamp, and of those of every image it names."""
        stamps = [f"{row.path}\0{digests.stamp(self._locate(row).stat())}" for row in self._rows]
        return digests.of_lines([digests.of_file(self.path), *stamps])

    def listing(self) -> Listing:
        """Classes are the labels, sorted."""
        classes = tuple(sorted({row.label for row in self._rows}))
        number = {name: position for position, name in enumerate(classes)}
        return Listing(classes, tuple(Record(row.path, number[row.label], row.given) for row in self._rows))

    @contextmanager
    def reads(self) -> Iterator[Iterator[Read]]:
        """Each read opens one file."""
        yield (partial(read_file, self.path.parent / row.path) for row in self._rows)

    def _locate(self, row: _Row) -> Path:
        file = self.path.parent / row.path
        if not file.is_file():
            raise DataError(
                f"{row.path}, named by {self.path}, is not a file beside it: mend the path or leave the row out"
            )
        return file

    def _parse(self, table: csv.DictReader[str]) -> Iterator[_Row]:
        header = [(name or "").strip().lower() for name in table.fieldnames or ()]
        if missing := [name for name in _COLUMNS if name not in header]:
            raise DataError(
                f"{self.path} has the columns {', '.join(header) or 'none'}, but must have path and label: "
                f"add {' and '.join(missing)}"
            )
        table.fieldnames = header
        row = None
        for row in table:
            yield self._checked(row, table.line_num, "split" in header)
        if row is None:
            raise DataError(f"{self.path} has a header but no rows: add one row per image")

    def _checked(self, row: dict[str, str | None], line: int, has_split: bool) -> _Row:
        path, label = ((row[name] or "").strip() for name in _COLUMNS)
        if not path or not label:
            raise DataError(
                f"{self.path}, line {line}: {'path' if not path else 'label'} is empty, but every row needs one"
            )
        if not has_split:
            return _Row(path, label, None)
        split = (row["split"] or "").strip()
        if split.lower() not in PART_OF:
            raise DataError(f"{self.path}, line {line}: split is {split!r}, but must be train, val or test")
        return _Row(path, label, PART_OF[split.lower()])
