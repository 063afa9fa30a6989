"""`hpo status`: how a study stands, once, live, or as JSON."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from hpo.cli.connect import connected
from hpo.cli.options import debug_option, storage_options, study_option
from hpo.cli.terminal import can_redraw
from hpo.strict_json import strict_json

INTERVAL = 2.0
"""Seconds between two readings of --watch."""


@click.command("status")
@study_option
@storage_options
@click.option("--watch", is_flag=True, help="Draw it again every two seconds until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@debug_option
def status_command(study: str, storage: str | None, home: Path, watch: bool, as_json: bool) -> None:
    """Show how STUDY stands: trials by state, the running and the latest ones, the best."""
    with connected(storage, home) as db:
        from hpo.search.overview import Survey
        from storage import open_study

        look = Survey(db, open_study(db, study))
        if as_json:
            click.echo(strict_json(look().to_dict(), indent=2))
            return
        from rich.console import Console
        from rich.live import Live

        from hpo.cli.view import draw

        console = Console()
        if not watch or not can_redraw(sys.stdout):
            console.print(draw(look()))
            while watch:
                time.sleep(INTERVAL)
                console.print()
                console.print(draw(look()))
            return
        with Live(draw(look()), console=console, auto_refresh=False, redirect_stderr=False) as live:
            while True:
                time.sleep(INTERVAL)
                live.update(draw(look()), refresh=True)
