"""`hpo run`: the main job in one command: init, K workers, a live view, a summary."""

from __future__ import annotations

import logging
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpo.cli.connect import STARTING, artifacts_folder, connected, with_password
from hpo.cli.init import creation_options, found, make_plan
from hpo.cli.options import (
    artifacts_option,
    data_argument,
    debug_option,
    device_option,
    storage_options,
    threads_option,
)
from hpo.cli.worker import WORKING, working_arguments, working_options
from hpo.errors import HpoError
from hpo.search.job import Job

if TYPE_CHECKING:
    from hpo.search.overview import Overview
    from hpo.search.plan import Plan
    from hpo.search.team import Team

log = logging.getLogger(__name__)

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
NOTICES = (signal.SIGUSR1, signal.SIGXCPU)

INTERVAL = 1.0
"""Seconds between two readings of the study."""


@click.command("run")
@data_argument
@creation_options
@click.option(
    "--workers",
    envvar="HPO_WORKERS",
    type=click.IntRange(1, 64),
    default=None,
    help="Worker processes on this machine.  [default: the number of GPUs, else 1]",
)
@device_option
@threads_option
@working_options
@storage_options
@artifacts_option
@debug_option
@click.pass_context
def run_command(
    ctx: click.Context, /, data: Path, study: str, weights: Path | None,
    trials: int | None, timeout: timedelta | None,
    workers: int | None, device: str, threads: int | None,
    storage: str | None, home: Path, artifacts: Path | str | None, **others: Any,
) -> None:  # fmt: skip
    """Search for the best classifier of DATA: create the study, start workers, watch them, sum up.

    The same command goes on where an earlier one stopped. DATA is a folder of class folders, a folder with
    train/ val/ test/ of class folders, a zip of either, an .npz (images, labels) or a CSV (path,label[,split]).
    """
    started = time.monotonic()
    from hpo.search.device import resolve_device

    working = {key: others.pop(key) for key in WORKING}
    plan = make_plan(data=data, study=study, weights=weights, **others)
    resolve_device(device)  # a wrong one is told before the images are decoded
    with connected(storage, home, initialise=True, patience=STARTING) as db:
        opened, _ = found(db, plan, home)
        from hpo.search.overview import Survey
        from hpo.search.plan import set_budget
        from hpo.search.team import Team
        from storage import Control, get_control, read_spec, set_control

        if get_control(db, opened) is Control.STOP:
            set_control(db, opened, Control.RUN)
            click.echo(f"study {study} was stopped; it goes on", err=True)
        if timeout is not None:  # what getting ready took is part of it
            timeout = max(timedelta(), timeout - timedelta(seconds=time.monotonic() - started))
        set_budget(db, opened, trials, timeout)
        base = Job(
            [str(data.resolve()), "--study", study, *working_arguments(working), *_weights(plan)],
            _environment(storage, home, artifacts_folder(artifacts, home), ctx),
            home / "logs" / read_spec(opened).id / "worker.log",
        )
        look = steady(Survey(db, opened))
        with Team(db, opened, make_jobs(base, workers, device, threads)) as team, forwarding(team):
            watch(team, look)
        code = summarise(look(), team)
    ctx.exit(code)


def _weights(plan: Plan) -> list[str]:
    path = plan.space.fixed.get("weights")
    return ["--weights", str(path)] if path else []


def _environment(storage: str | None, home: Path, artifacts: Path | str, ctx: click.Context) -> dict[str, str]:
    """What workers find in their environment. A URL may hold a password, so it is not among their arguments."""
    environment = {"HPO_HOME": str(home.resolve()), "HPO_ARTIFACTS": str(artifacts)}
    if storage is not None:
        environment["HPO_STORAGE"] = with_password(storage) or storage
    if ctx.meta.get("hpo.debug"):
        environment["HPO_DEBUG"] = "1"
    return environment


def make_jobs(base: Job, workers: int | None, device: str, threads: int | None) -> list[Job]:
    """One job a worker, each with a device, CPU threads and a log of its own: GPUs in turn, cores shared."""
    from hpo.search.device import cores, devices, resolve_device

    count = workers or devices(device)
    share = threads or max(1, cores() // count)
    environment = {**base.environment, "OMP_NUM_THREADS": str(share)}
    return [
        Job(
            [*base.arguments, "--device", resolve_device(device, number), "--threads", str(share)],
            environment,
            base.log.with_name(f"worker-{number}.log"),
        )
        for number in range(count)
    ]


def steady(look: Callable[[], Overview]) -> Callable[[], Overview]:
    """`look`, but with the view before where the database does not answer: the workers go on, so does the watching."""
    from storage import StorageError

    last = look()

    def again() -> Overview:
        nonlocal last
        try:
            last = look()
        except StorageError as error:
            log.debug("the study cannot be read at the moment: %s", error)
        return last

    return again


@contextmanager
def forwarding(team: Team) -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP stop the team; a second one makes it leave at once. Slurm's notices stop it too."""

    def handle(number: int, _: object) -> None:
        if number in NOTICES and team.stopping:
            return
        hint = "leaving at once" if team.stopping else "stopping at the next step; once more to leave at once"
        click.echo(f"hpo: {hint}", err=True)
        team.stop()

    former = {number: signal.signal(number, handle) for number in (*STOPS, *NOTICES)}
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
    """A line for each trial that finishes, for each that waits for something, and for each worker that dies."""
    from hpo.cli.view import plain_line

    overview = look()
    told = {line.number for line in overview.lines if line.state in ("complete", "pruned", "failed")}
    noted: set[str] = set()
    control, died = "run", 0
    while True:
        team.poll(timeout=INTERVAL / max(1, team.working))
        overview = look()
        if overview.control != control:
            control = overview.control
            click.echo(f"study {overview.study} is told to {control}")
        news = [f"trial {lease.number} {lease.note}" for lease in overview.leases if lease.note]
        for text in [*team.died[died:], *(text for text in news if text not in noted)]:
            click.echo(f"hpo: {text}", err=True)
        died, noted = len(team.died), set(news)
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
    spent = overview.limits.trials is not None and overview.counts["finished"] >= overview.limits.trials
    for line in team.died:
        click.echo(f"hpo: {line}", err=True)
    if team.stopping:
        paused = f", after `hpo resume --study {overview.study}`" if overview.control == "pause" else ""
        click.echo(f"\nstopped; the same command goes on from here{paused}", err=True)
        return 130
    if overview.control == "stop":
        click.echo(f"\nstopped by `hpo stop`; `hpo resume --study {overview.study}` or `hpo run` goes on", err=True)
        return 0
    left = sum(line.state == "waiting" and line.epoch > 0 for line in overview.lines)
    if left and spent:
        reached = f"--trials {overview.limits.trials} is reached"
        click.echo(f"\n{left} interrupted trials stay as they are: {reached}", err=True)
    if overview.best is not None:
        click.echo(f"\nnext: hpo export-best --study {overview.study} --out best/")
    if team.died and not overview.counts["finished"]:
        raise HpoError("no worker stayed alive; their logs say why")
    # A worker that died is no failure where others have gone on with its trial.
    return 1 if team.died and not spent else 0
