"""Search spaces as tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from search_spaces import SearchSpace, rows


def listed(spaces: Sequence[SearchSpace]) -> RenderableType:
    """One row a space: name, open dimensions, summary."""
    table = _table("space", "open", "what it is")
    for space in spaces:
        table.add_row(space.name, str(len(space.open)), space.summary)
    return Group(table, Text(), Text("hpo spaces NAME explains one; --space FILE.yaml takes your own", style="dim"))


def explained(space: SearchSpace) -> RenderableType:
    """Every open dimension with its range and condition, then what is fixed; the rest has its default."""
    described = rows(space)
    opened = _table("dimension", "what may be tried", "when", "what it is")
    fixed = _table("fixed", "value", "what it is")
    for row in described:
        if row.state == "open":
            opened.add_row(row.field, row.values, row.condition, row.meaning)
        elif row.state == "fixed":
            fixed.add_row(row.field, row.values, row.meaning)
    defaults = "  ".join(f"{row.field}={row.values}" for row in described if row.state == "default")
    head = Text.assemble((space.name, "bold"), "  ", space.summary)
    return Group(head, Text(), opened, Text(), fixed, Text(), Text.assemble(("default  ", "dim"), (defaults, "dim")))


def _table(first: str, *titles: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column(first, style="bold", no_wrap=True)
    for title in titles:
        table.add_column(title)
    return table
