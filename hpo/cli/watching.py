"""Watching a team of workers at a study, stopping it with the signals that come, and saying how that ended."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from hpo.cli.terminal import can_redraw
from hpo.errors import HpoError
from hpo.hints import hint
from hpo.search.signals import handle_signals

if TYPE_CHECKING:
    from hpo.search.local_workers import LocalWorkers
    from hpo.search.status import StudyStatus


log = logging.getLogger(__name__)

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

NOTICES = (signal.SIGUSR1, signal.SIGXCPU)

INTERRUPTED = 130

INTERVAL = 1.0
"""Seconds between two readings of the study."""


def steady(look: Callable[[], StudyStatus]) -> Callable[[], StudyStatus]:
    """`look`, but with the view before where the database does not answer: the workers go on, so does the watching."""
    from storage import StorageError

    last = look()

    def again() -> StudyStatus:
        nonlocal last
        try:
            last = look()
        except StorageError as error:
            log.debug("the study cannot be read at the moment: %s", error)
        return last

    return again


@contextmanager
def forwarding(team: LocalWorkers) -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP stop the team; a second one makes it leave at once. Slurm's notices stop it too."""

    def handle(number: int, _: object) -> None:
        if number in NOTICES and team.stopping:
            return
        told = "leaving at once" if team.stopping else "stopping at the next step; once more to leave at once"
        click.echo(f"hpo: {told}", err=True)
        team.stop()

    with handle_signals(handle, STOPS, always=NOTICES):
        yield


def watch(team: LocalWorkers, look: Callable[[], StudyStatus]) -> None:
    """Show the study until no worker is left: drawn on a terminal, a line per finished trial elsewhere."""
    if not can_redraw(sys.stdout):
        _watch_lines(team, look)
        return
    from rich.console import Console
    from rich.live import Live

    from hpo.cli.status import draw

    # What goes to stderr may go to a file: only where it shares the terminal must it be kept above the drawing.
    shared = sys.stderr.isatty()
    with Live(draw(look()), console=Console(), auto_refresh=False, transient=True, redirect_stderr=shared) as live:
        while team.working:
            team.poll(timeout=INTERVAL / team.working)
            live.update(draw(look()), refresh=True)


def _watch_lines(team: LocalWorkers, look: Callable[[], StudyStatus]) -> None:
    """A line for each trial that finishes, for each that waits for something, and for each worker that dies."""
    from hpo.cli.status import plain_line

    status = look()
    told = {line.number for line in status.trials if line.state in ("complete", "pruned", "failed")}
    noted: set[str] = set()
    control, died = "run", 0
    while True:
        team.poll(timeout=INTERVAL / max(1, team.working))
        status = look()
        if status.control != control:
            control = status.control
            click.echo(f"study {status.study} is told to {control}")
        news = [f"trial {lease.number} {lease.note}" for lease in status.leases if lease.note]
        for text in [*team.died[died:], *(text for text in news if text not in noted)]:
            click.echo(f"hpo: {text}", err=True)
        died, noted = len(team.died), set(news)
        for line in status.trials:
            if line.number not in told and line.state in ("complete", "pruned", "failed"):
                told.add(line.number)
                click.echo(plain_line(status, line))
        if not team.working:
            return


def stopped(status: StudyStatus, team: LocalWorkers) -> int | None:
    """Tell which workers died, and whether somebody stopped the work; the exit code then, None where nobody did."""
    for line in team.died:
        click.echo(f"hpo: {line}", err=True)
    if team.stopping:
        paused = f", after `{hint('resume', study=status.study)}`" if status.control == "pause" else ""
        click.echo(f"\nstopped; the same command goes on from here{paused}", err=True)
        return INTERRUPTED
    if status.control == "stop":
        again = f"`{hint('resume', study=status.study)}` or the same command goes on"
        click.echo(f"\nstopped by `hpo stop`; {again}", err=True)
        return 0
    return None


def check_alive(status: StudyStatus, team: LocalWorkers) -> None:
    """HpoError where every worker died before a trial was finished."""
    if team.died and not status.counts["finished"]:
        raise HpoError("no worker stayed alive; their logs say why")
