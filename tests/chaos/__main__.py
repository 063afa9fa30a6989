"""`python -m tests.chaos`: run a campaign of faults. The exit code is 1 when a promise was broken."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from tests.chaos.campaign import Size, campaign_folder, run_campaign
from tests.chaos.schedule import Schedule
from tests.chaos.table import as_json, show


@click.command()
@click.option("--workers", type=click.IntRange(1), default=8, show_default=True, help="Worker processes.")
@click.option("--trials", type=click.IntRange(1), default=200, show_default=True, help="Cap of the study.")
@click.option("--faults", type=click.IntRange(1), default=300, show_default=True, help="Faults to inject.")
@click.option("--seed", type=int, default=7, show_default=True, help="Seed of the schedule of faults.")
@click.option("--epochs", type=click.IntRange(2), default=6, show_default=True, help="Epochs of each trial.")
@click.option("--poison", type=click.IntRange(0), default=2, show_default=True, help="Trials that kill their workers.")
@click.option(
    "--isolate",
    type=click.IntRange(0),
    default=2,
    show_default=True,
    help="Number of workers that train each trial in a process of its own.",
)
@click.option(
    "--store",
    type=click.Choice(["folder", "s3"]),
    default="folder",
    show_default=True,
    help="Place of the checkpoints: a folder on a small disk, or an S3 server behind a network that can be cut.",
)
@click.option("--lease", type=float, default=3.0, show_default=True, help="Length of a lease in seconds.")
@click.option("--folder", type=click.Path(path_type=Path), help="Keep logs, diary and checkpoints here.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the table to this file as well.")
@click.option("--show-schedule", is_flag=True, help="Print the schedule of this seed and exit.")
def main(*, folder: Path | None, json_file: Path | None, show_schedule: bool, **options: Any) -> None:
    """Inject faults into every component of a search, and count lost and repeated work."""
    size = Size(**options)
    if show_schedule:
        for fault in Schedule(size.seed, size.faults, size.workers, size.absent):
            click.echo(fault)
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwind, so that servers, workers and mounts are removed
    with campaign_folder(folder) as place:
        outcome = run_campaign(size, place, click.echo)
    show(outcome, Console())
    if json_file is not None:
        json_file.write_text(json.dumps(as_json(outcome), indent=2) + "\n")
    sys.exit(1 if outcome.failures else 0)


if __name__ == "__main__":
    main()
