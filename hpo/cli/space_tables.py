"""Tables of search spaces for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text


def list_table(described: Sequence[Mapping[str, Any]]) -> RenderableType:
    """One row a space: name, summary, how many dimensions are open."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("space", style="bold")
    table.add_column("open", justify="right")
    table.add_column("what it is")
    for space in described:
        table.add_row(space["name"], str(len(space["open"])), space["summary"])
    return Group(table, Text(), Text("hpo spaces NAME explains one; --space FILE.yaml takes your own", style="dim"))


def explain_table(space: Mapping[str, Any]) -> RenderableType:
    """Every open dimension with its range and condition, then what is fixed."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("dimension", style="bold")
    table.add_column("what may be tried")
    for field, text in space["open"].items():
        table.add_row(field, text if isinstance(text, str) else "\n".join(map(str, text)))
    fixed = "  ".join(f"{key}={value}" for key, value in space["fixed"].items())
    head = Text.assemble((space["name"], "bold"), "  ", space["summary"])
    return Group(head, Text(), table, Text(), Text.assemble(("fixed  ", "dim"), fixed or "nothing"))
