"""Text in a CSV that a spreadsheet must not read as a formula: one rule for every CSV that hpo writes.

Excel and LibreOffice read a cell as a formula if it begins with =, +, -, @, a tab, a carriage return or a line feed, or
with the full-width form of one of the signs; so the name of a file or a class could run one (OWASP, CSV Injection). An
apostrophe is put in front of such a cell. One is put in front of a cell that begins with an apostrophe too, so a reader
gets the text back by removing one apostrophe from each cell that begins with one. Numbers stay unchanged, also as names
such as the classes `-1` and `+1`, since they are not formulas.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from typing import IO

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)

QUOTE = "'"


def plain_cell(value: object) -> object:
    """Return the cell to write: text that would be a formula behind an apostrophe, everything else unchanged."""
    if not isinstance(value, str) or not value.startswith((QUOTE, *_FORMULA)) or _NUMBER.fullmatch(value):
        return value
    return QUOTE + value


def plain_row(values: Iterable[object]) -> list[object]:
    """Return the cells of a row to write."""
    return [plain_cell(value) for value in values]


class CsvRows:
    """Writes rows to a text file as CSV, with protected cells; None is an empty cell."""

    def __init__(self, file: IO[str]) -> None:
        self._writer = csv.writer(file, lineterminator="\n")
        # A lone carriage return would end the row for a reader, and csv puts it in quotes only if asked.
        self._quoting = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)

    def write(self, cells: Iterable[object]) -> None:
        """Write one row."""
        row = plain_row(cells)
        returns = any(isinstance(cell, str) and "\r" in cell for cell in row)
        (self._quoting if returns else self._writer).writerow(row)
