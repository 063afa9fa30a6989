"""`hpo status`: how a study stands, once, live, or as JSON."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click

from hpo.cli.connect import connected
from hpo.cli.options import debug_option, storage_options, study_option

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
            click.echo(json.dumps(look().to_dict(), indent=2, allow_nan=False, default=str))
            return
        from rich.console import Console
        from rich.live import Live

        from hpo.cli.view import draw

        console = Console()
        if not watch:
            console.print(draw(look()))
            return
        with Live(draw(look()), console=console, auto_refresh=False) as live:
            while True:
                time.sleep(INTERVAL)
                live.update(draw(look()), refresh=True)
