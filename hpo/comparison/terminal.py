"""A comparison as a table for a terminal: whole names and figures, and of the columns those that the width allows."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from hpo.comparison.cells import FIGURES, NOTHING, SCORES, centre, interval, model
from hpo.comparison.circumstances import Circumstances
from hpo.comparison.row import Row
from hpo.comparison.score import Score
from hpo.comparison.speed import BATCHES
from hpo.comparison.table import notes

_HEADINGS = {
    "parameters": "param.",
    "trainable": "train.",
    "s per epoch": "s/epoch",
    **{f"images/s at {batch}": f"img/s\n×{batch}" for batch in BATCHES},
    "peak memory": "memory",
}
"""Where a heading is shorter than in a file."""
_INTERVALS = "intervals"
_LEAST_FIRST = {
    "images/s": {f"images/s at {batch}" for batch in BATCHES},
    "memory": {"peak memory"},
    "s/epoch": {"s per epoch"},
    "trainable": {"trainable"},
    "parameters": {"parameters"},
    "macro F1": {"macro F1"},
    _INTERVALS: {_INTERVALS},
    "corrupted": {"corrupted"},
    "test": {"test"},
}
"""What a narrow terminal goes without, the least important first: the name that tells of it, and its headings."""
_BREAKS = (r"(?<=, )", r"(?<= )", r"(?<=[-,:/])(?=\D)", r"(?<=_)(?=\D)")
"""Where a text may be broken, each used only where those before do not suffice; no number is."""
_NAMES = 24
"""Columns that the names may take before a figure gives way to them."""
_WIDEST = 10_000


def print_comparison(console: Console, rows: Sequence[Row], about: Circumstances) -> None:
    """The table, the notes of the rows under it, and where the figures come from; all columns fit 120.

    On a narrower terminal the least important columns are left out, and a line says which; nothing is cut.
    """
    left_out, names = _layout(console, rows)
    table = _table(rows, _hidden(left_out), names)
    table.width = _width(console, table)  # else Rich would squeeze one that is wider than the console
    console.print(table, crop=False)
    if left_out:
        told = f"left out: {', '.join(left_out)}; table.md/csv of --out have all"
        console.print(Text(told, style="dim"))
    for line in notes(rows, about):
        console.print(Text(line, style="dim"))


def _layout(console: Console, rows: Sequence[Row]) -> tuple[list[str], int]:
    """What is left out, and how wide the names may be: as narrow as need be, and what the figures do not use."""
    names = _narrowest(rows)
    for dropped in range(len(_LEAST_FIRST) + 1):
        left_out = list(_LEAST_FIRST)[:dropped]
        spare = console.width - _width(console, _table(rows, _hidden(left_out), names))
        if spare >= 0:
            break
    return left_out, names + max(0, spare)


def _hidden(left_out: Sequence[str]) -> set[str]:
    """The headings, or intervals, that go with `left_out`."""
    return {heading for name in left_out for heading in _LEAST_FIRST[name]}


def _width(console: Console, table: Table) -> int:
    """Columns that `table` takes where there is room for it."""
    return Measurement.get(console, console.options.update(width=_WIDEST), table).maximum


def _table(rows: Sequence[Row], hidden: Collection[str], names: int) -> Table:
    """Two lines a contestant or more: the figures, and under the scores their intervals; names of `names` columns."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1))
    table.add_column("contestant", no_wrap=True)
    scores = [name for name in SCORES if name not in hidden]
    figures = [(heading, cell) for heading, cell in FIGURES if heading not in hidden]
    for heading in (*scores, *(heading for heading, _ in figures)):
        table.add_column(_HEADINGS.get(heading, heading), justify="right", no_wrap=True)
    for row in rows:
        label = Text.assemble(wrapped(row.label, names), ("\n" + wrapped(model(row), names), "dim"))
        cells = (_score(getattr(row, name), _INTERVALS not in hidden) for name in scores)
        table.add_row(label, *cells, *(cell(row) for _, cell in figures))
    return table


def _score(score: Score | None, with_interval: bool) -> Text:
    if score is None:
        return Text(NOTHING)
    return Text.assemble(centre(score), ("\n" + interval(score) if with_interval else "", "dim"))


def _narrowest(rows: Sequence[Row]) -> int:
    """What the names take at least: no part that cannot be broken is wider."""
    texts = [text for row in rows for text in (row.label, model(row))]
    usual = min(_NAMES, max(map(cell_len, texts)))
    return max(usual, *(cell_len(part.rstrip()) for text in texts for part in _parts(text, 0)))


def wrapped(text: str, width: int) -> str:
    """`text` in lines of `width` columns, broken at spaces, else at hyphens and the like; a longer word stays whole."""
    lines = [""]
    for part in _parts(text, width):
        if lines[-1] and cell_len(lines[-1] + part.rstrip()) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(line.rstrip() for line in lines)


def _parts(text: str, width: int, breaks: Sequence[str] = _BREAKS) -> Iterator[str]:
    """The pieces of `text`, broken at the first of `breaks`, and one that is still too wide at the others."""
    if cell_len(text.rstrip()) <= width or not breaks:
        yield text
        return
    for part in re.split(breaks[0], text):
        yield from _parts(part, width, breaks[1:])
