"""`hpo spaces`: list the search spaces, or explain one."""

from __future__ import annotations

import click

from hpo.cli.options import debug_option
from hpo.strict_json import strict_json


@click.command("spaces")
@click.argument("name", required=False, metavar="[NAME|FILE.yaml]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@debug_option
def spaces_command(name: str | None, as_json: bool) -> None:
    """List the search spaces that ship, or explain one: what is open, within which limits, and what is fixed."""
    from search_spaces import catalog, describe, load_space

    spaces = [load_space(name)] if name else catalog()
    if as_json:
        click.echo(strict_json([describe(space) for space in spaces], indent=2))
        return
    from rich.console import Console

    from hpo.cli.space_tables import explained, listed

    Console().print(explained(spaces[0]) if name else listed(spaces))
