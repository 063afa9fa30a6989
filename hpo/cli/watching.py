"""Watch local workers at a study, forward signals to them, and report how they ended."""

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

FINISHED = ("complete", "pruned", "failed")

CONTROLLED = {"run": "running again", "pause": "paused", "stop": "stopped"}
"""The control of a study -> its state in words."""

INTERVAL = 1.0
"""Seconds between two updates."""


def keep_last_status(read_status: Callable[[], StudyStatus]) -> Callable[[], StudyStatus]:
    """Return a reader like `read_status` that gives the last status while the database does not answer."""
    from storage import StorageError

    last = read_status()

    def read_or_keep() -> StudyStatus:
        nonlocal last
        try:
            last = read_status()
        except StorageError as error:
            log.debug("the study cannot be read at the moment: %s", error)
        return last

    return read_or_keep


@contextmanager
def forwarding(workers: LocalWorkers) -> Iterator[None]:
    """Stop the workers on SIGINT, SIGTERM and SIGHUP, at once on a second one. Slurm's notices stop them too."""

    def handle(number: int, _: object) -> None:
        if number in NOTICES and workers.stopping:
            return
        action = "leaving at once" if workers.stopping else "stopping at the next step; once more to leave at once"
        click.echo(f"hpo: {action}", err=True)
        workers.stop()

    with handle_signals(handle, STOPS, always=NOTICES):
        yield


def watch(workers: LocalWorkers, read_status: Callable[[], StudyStatus]) -> None:
    """Show the study until every worker has ended: drawn on a terminal, a line per finished trial elsewhere."""
    if not can_redraw(sys.stdout):
        _watch_lines(workers, read_status)
        return
    from rich.console import Console
    from rich.live import Live

    from hpo.cli.status import draw

    # stderr may go to a file: only where it shares the terminal must its lines be kept above the drawing.
    shared = sys.stderr.isatty()
    with Live(
        draw(read_status()), console=Console(), auto_refresh=False, transient=True, redirect_stderr=shared
    ) as live:
        while workers.working:
            workers.poll(timeout=INTERVAL / workers.working)
            live.update(draw(read_status()), refresh=True)


def _watch_lines(workers: LocalWorkers, read_status: Callable[[], StudyStatus]) -> None:
    """Print a line for each trial that finishes, for each that waits for something, and for each worker that dies."""
    printed = {trial.number for trial in read_status().trials if trial.state in FINISHED}
    notes: set[str] = set()
    control, died = "run", 0
    while True:
        workers.poll(timeout=INTERVAL / max(1, workers.working))
        status = read_status()
        if status.control != control:
            control = status.control
            click.echo(f"study {status.study} is {CONTROLLED[control]}")
        current = [f"trial {lease.number} {lease.note}" for lease in status.leases if lease.note]
        for text in [*workers.died[died:], *(text for text in current if text not in notes)]:
            click.echo(f"hpo: {text}", err=True)
        died, notes = len(workers.died), set(current)
        printed |= _print_finished(status, printed)
        if not workers.working:
            return


def _print_finished(status: StudyStatus, printed: set[int]) -> set[int]:
    """Print the finished trials that are not in `printed`; return their numbers."""
    from hpo.cli.status import plain_line

    finished = [trial for trial in status.trials if trial.state in FINISHED and trial.number not in printed]
    for trial in finished:
        click.echo(plain_line(status, trial))
    return {trial.number for trial in finished}


def report_stop(status: StudyStatus, workers: LocalWorkers) -> int | None:
    """Print which workers died and whether the work was stopped; return the exit code then, None where it was not."""
    for line in workers.died:
        click.echo(f"hpo: {line}", err=True)
    if workers.stopping:
        paused = f", after `{hint('resume', study=status.study)}`" if status.control == "pause" else ""
        click.echo(f"\nstopped; the same command goes on from here{paused}", err=True)
        return INTERRUPTED
    if status.control == "stop":
        again = f"`{hint('resume', study=status.study)}` or the same command goes on"
        click.echo(f"\nstopped by `hpo stop`; {again}", err=True)
        return 0
    return None


def check_alive(status: StudyStatus, workers: LocalWorkers) -> None:
    """Raise HpoError where every worker died before a trial was finished."""
    if workers.died and not status.counts["finished"]:
        raise HpoError("no worker stayed alive; their logs say why")
