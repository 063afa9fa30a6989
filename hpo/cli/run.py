"""`hpo run`: the main job in one command: init, K workers, a live view, a summary."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from hpo.cli.connect import STARTING, artifacts_folder, connected, with_password
from hpo.cli.init import creation_options, found, make_plan
from hpo.cli.options import data_argument, debug_option, device_option, storage_options, threads_option
from hpo.cli.worker import keep_option
from hpo.errors import HpoError

if TYPE_CHECKING:
    from hpo.search.overview import Overview
    from hpo.search.team import Job, Team

INTERVAL = 1.0
"""Seconds between two readings of the study."""


@click.command("run")
@data_argument
@creation_options
@click.option(
    "--workers",
    envvar="HPO_WORKERS",
    type=click.IntRange(1, 256),
    default=None,
    help="Worker processes on this machine.  [default: the number of GPUs, else 1]",
)
@device_option
@threads_option
@keep_option
@storage_options
@debug_option
@click.pass_context
def run_command(
    ctx: click.Context, /, data: Path, study: str, weights: Path | None,
    trials: int | None, timeout: timedelta | None,
    workers: int | None, device: str, threads: int | None, keep: int,
    storage: str | None, home: Path, artifacts: Path | None, **creation: Any,
) -> None:  # fmt: skip
    """Search for the best classifier of DATA: create the study, start workers, watch them, sum up.

    The same command goes on where an earlier one stopped. DATA is a folder of class folders, a folder with
    train/ val/ test/ of class folders, a zip of either, an .npz (images, labels) or a CSV (path,label[,split]).
    """
    plan = make_plan(data=data, study=study, weights=weights, **creation)
    with connected(storage, home, initialise=True, patience=STARTING) as db:
        opened, _ = found(db, plan, home)
        from hpo.search.overview import survey
        from hpo.search.plan import set_budget
        from hpo.search.team import Team

        set_budget(db, opened, trials, timeout)
        folder = artifacts_folder(artifacts, home)
        common = [str(data.resolve()), "--study", study, "--keep", str(keep)]
        environment = {"HPO_HOME": str(home.resolve()), "HPO_ARTIFACTS": str(folder.resolve())}
        if storage is not None:
            environment["HPO_STORAGE"] = with_password(storage) or storage
        if path := plan.space.fixed.get("weights"):
            common += ["--weights", str(path)]
        jobs = make_jobs(common, environment, home / "logs" / quote(study, safe=""), workers, device, threads)
        with Team(opened, jobs) as team, forwarding(team):
            watch(team, lambda: survey(db, opened))
        code = summarise(survey(db, opened), team)
    ctx.exit(code)


def make_jobs(
    common: list[str], environment: dict[str, str], logs: Path, workers: int | None, device: str, threads: int | None
) -> list[Job]:  # fmt: skip
    """One job a worker: GPUs in turn, CPU threads shared."""
    import torch

    from hpo.search.device import cores, resolve_device
    from hpo.search.team import Job

    count = workers or max(1, torch.cuda.device_count() if device != "cpu" else 0)
    share = threads or max(1, cores() // count)
    environment = {**environment, "OMP_NUM_THREADS": str(share)}
    return [
        Job(
            [*common, "--device", resolve_device(device, number), "--threads", str(share)],
            environment,
            logs / f"worker-{number}.log",
        )
        for number in range(count)
    ]


@contextmanager
def forwarding(team: Team) -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP stop the team; a second one makes it leave at once."""

    def handle(_: int, __: object) -> None:
        hint = "leaving at once" if team.stopping else "stopping at the next step; once more to leave at once"
        click.echo(f"hpo: {hint}", err=True)
        team.stop()

    former = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def watch(team: Team, look: Callable[[], Overview]) -> None:
    """Show the study until no worker is left: drawn on a terminal, a line per finished trial elsewhere."""
    if not sys.stdout.isatty():
        _watch_lines(team, look)
        return
    from rich.console import Console
    from rich.live import Live

    from hpo.cli.view import draw

    with Live(draw(look()), console=Console(), auto_refresh=False, transient=True) as live:
        while team.working:
            team.poll(timeout=INTERVAL / team.working)
            live.update(draw(look()), refresh=True)


def _watch_lines(team: Team, look: Callable[[], Overview]) -> None:
    from hpo.cli.view import plain_line

    told = {line.number for line in look().lines if line.state in ("complete", "pruned", "failed")}
    while True:
        team.poll(timeout=INTERVAL / max(1, team.working))
        overview = look()
        for line in overview.lines:
            if line.number not in told and line.state in ("complete", "pruned", "failed"):
                told.add(line.number)
                click.echo(plain_line(overview, line))
        if not team.working:
            return


def summarise(overview: Overview, team: Team) -> int:
    """Print how it ended and what to do next; the exit code."""
    from rich.console import Console

    from hpo.cli.view import draw

    Console().print(draw(overview, shown=len(overview.lines)))
    for line in team.died:
        click.echo(f"hpo: {line}", err=True)
    if team.stopping:
        click.echo("\nstopped; the same command goes on from here", err=True)
        return 130
    if overview.best is not None:
        click.echo(f"\nnext: hpo export-best --study {overview.study} --out best/")
    if team.died and not overview.counts["finished"]:
        raise HpoError("no worker stayed alive; their logs say why")
    return 1 if team.died else 0
