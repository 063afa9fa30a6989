"""`hpo reap`: put back the trials of workers that are gone, for a study that nobody works on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpo.cli.existing import existing
from hpo.cli.options import debug_option, storage_options, study_option
from hpo.hints import hint

if TYPE_CHECKING:
    from storage import Holding, Reaped, Worker


class Owner(click.ParamType[tuple[str, int]]):
    """A process as `hpo status` names it: `HOST:PID`."""

    name = "owner"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        """Text to host and process id."""
        if isinstance(value, tuple):
            return value
        host, _, pid = str(value).rpartition(":")
        if not host or not pid.isdecimal():
            self.fail(f"{value!r} is no owner; write HOST:PID, as `hpo status` shows it", param, ctx)
        return host, int(pid)


@click.command("reap")
@study_option
@click.option(
    "--owner", type=Owner(), metavar="HOST:PID",
    help="A worker that you know to be dead: its lease ends now.",
)  # fmt: skip
@storage_options
@debug_option
def reap_command(study: str, owner: tuple[str, int] | None, storage: str | None, home: Path) -> None:
    """Put back the trials of STUDY whose leases have expired; those that killed worker after worker are failed.

    Workers do this by themselves whenever they look for a trial: it is for a study that nobody works on.
    """
    with existing(storage, home, study) as (db, found):
        from storage import Worker, expire_dead_neighbours, expire_leases, holdings, reap

        if owner is not None:
            worker = Worker(host=owner[0], pid=owner[1], place="")
            click.echo(ended_line(worker, expire_leases(db, found, worker)))
        expire_dead_neighbours(db, found)
        lines = reaped_lines(reap(db, found))
        held = [lease for lease in holdings(db, found) if lease.state == "held"]
    for line in lines or ["nothing to put back"]:
        click.echo(line)
    for lease in held:
        click.echo(held_line(study, lease))


def ended_line(worker: Worker, ended: int) -> str:
    """What became of the leases of the process that is dead."""
    if not ended:
        return f"{worker} holds no trial of this study"
    return f"{worker}: {ended} lease{'s' if ended > 1 else ''} ended"


def reaped_lines(reaped: Reaped) -> list[str]:
    """A line for each trial that was dealt with."""
    lines = [f"trial {number} is put back; the next worker goes on with it" for number in reaped.put_back]
    return lines + [f"trial {number} has failed: worker after worker died of it" for number in reaped.failed]


def held_line(study: str, lease: Holding) -> str:
    """A trial that stays as it is, and for how long."""
    who = f"trial {lease.number} is held by {lease.owner or 'an unknown worker'} ({lease.device or 'unknown device'})"
    if lease.left >= 0:
        return f"{who}, renewed {lease.age:.0f} s ago; its lease lasts {lease.left:.0f} s more unless it is renewed"
    return (
        f"{who}, whose lease expired {-lease.left:.0f} s ago; but the database was only just started, and it may still "
        f"renew: if it is dead, `{hint('reap', study=study, owner=lease.owner)}` puts the trial back now"
    )
