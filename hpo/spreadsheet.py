"""Text in a CSV that a spreadsheet does not take for a formula: one rule for every CSV that is written.

A cell that begins with =, +, -, @, a tab, a carriage return or a line feed, or with the full-width form of one of the
signs, is a formula to Excel and LibreOffice, and a name of a file or a class can be made to run one (OWASP, CSV
Injection). Such a cell gets an apostrophe in front. So does a cell that begins with an apostrophe: whoever reads the
file takes one apostrophe from the front of a cell that has one, and has the text as it was. A number stays as it is,
also one that is a name, as the classes `-1` and `+1` are: a spreadsheet computes nothing from it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)

QUOTE = "'"


def plain_cell(value: object) -> object:
    """The cell as it is written: text that would be a formula behind an apostrophe, everything else as it is."""
    if not isinstance(value, str) or not value.startswith((QUOTE, *_FORMULA)) or _NUMBER.fullmatch(value):
        return value
    return QUOTE + value


def plain_row(values: Iterable[object]) -> list[object]:
    """The cells of a row as they are written."""
    return [plain_cell(value) for value in values]
