"""`hpo spaces`: list the search spaces as a table, or explain one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

import click
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from hpo.cli.options import debug_option
from hpo.strict_json import strict_json
from search_spaces import SearchSpace, SpaceRow, catalog, describe, load_space, rows


@click.command("spaces")
@click.argument("name", required=False, metavar="[NAME|FILE.yaml]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@debug_option
def spaces_command(name: str | None, as_json: bool) -> None:
    """List the search spaces that ship, or explain one: what is open, within which limits, and what is fixed."""
    spaces = [load_space(name)] if name else catalog()
    if as_json:
        click.echo(strict_json([describe(space) for space in spaces], indent=2))
        return
    Console().print(explanation(spaces[0]) if name else spaces_table(spaces))


def spaces_table(spaces: Sequence[SearchSpace]) -> RenderableType:
    """Return a table with a row for each space: name, published recipe that it reproduces, open dimensions, summary."""
    table = _table("space", "recipe", "open", "what it is")
    table.columns[1].no_wrap = True
    for space in spaces:
        table.add_row(space.name, space.seed or "", str(len(space.open)), space.summary)
    return Group(table, Text(), Text("hpo spaces NAME explains one; --space FILE.yaml takes your own", style="dim"))


def explanation(space: SearchSpace) -> RenderableType:
    """Return all open dimensions with range and condition, the fixed values, each phase, and the defaults."""
    described = rows(space)
    tables = (_open(described), _fixed(described), *_phases(space, described))
    shown = (part for table in tables if table.row_count for part in (Text(), _without_empty_columns(table)))
    defaults = "  ".join(f"{row.field}={row.values}" for row in described if row.state == "default")
    return Group(_head(space), *shown, Text(), Text.assemble(("default  ", "dim"), (defaults, "dim")))


def _head(space: SearchSpace) -> Text:
    head = Text.assemble((space.name, "bold"), "  ", space.summary)
    if space.seed is not None:
        head.append(f"\nreproduces published recipe {space.seed}: see docs/seeds.md")
    return head


def _open(described: Iterable[SpaceRow]) -> Table:
    table = _table("dimension", "what may be tried", "when", "what it is")
    for row, meaning in _with_meaning_once(row for row in described if row.state == "open" and not row.phase):
        table.add_row(row.field, row.values, row.condition, meaning)
    return table


def _fixed(described: Iterable[SpaceRow]) -> Table:
    table = _table("fixed", "value", "what it is")
    for row in described:
        if row.state == "fixed" and not row.phase:
            table.add_row(row.field, row.values, row.meaning)
    return table


def _phases(space: SearchSpace, described: Iterable[SpaceRow]) -> Iterator[Table]:
    """Give a table for each phase, of the fields that it sets; the others are those of the run."""
    for phase, of_phase in groupby((row for row in described if row.phase), key=lambda row: row.phase):
        table = _table(_title(space, phase), "", "value or range", "when", "what it is")
        for row, meaning in _with_meaning_once(of_phase):
            table.add_row(row.field, row.state, row.values, row.condition, meaning)
        yield table


def _title(space: SearchSpace, phase: int) -> str:
    """Return `phase 1`, and how many of the run's epochs it has where that is fixed."""
    if not {"epochs", *(f"phase{number}.epochs" for number in space.phases)} <= space.fixed.keys():
        return f"phase {phase}"
    run = space.largest()
    return f"phase {phase}: {run.phases[phase - 1].epochs} of {run.epochs} epochs"


def _with_meaning_once(described: Iterable[SpaceRow]) -> Iterator[tuple[SpaceRow, str]]:
    """Give each row with the meaning of its field, for the first of several variants only."""
    before = ""
    for row in described:
        yield row, row.meaning if row.field != before else ""
        before = row.field


def _table(first: str, *titles: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column(first, style="bold", no_wrap=True)
    for title in titles:
        table.add_column(title)
    return table


def _without_empty_columns(table: Table) -> Table:
    """Return the table without its empty columns."""
    table.columns = [column for column in table.columns if any(column.cells)]
    return table
