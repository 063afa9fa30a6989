"""`hpo pause`, `hpo stop`, `hpo resume` tell all workers of a study what to do; `hpo reap` requeues orphaned trials."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpo.cli.connect import connected_study
from hpo.cli.options import debug_option, storage_options, study_option
from hpo.hints import hint

if TYPE_CHECKING:
    from storage import LeaseInfo, Reaped, Worker


_WORDS = {"run": "running", "pause": "paused", "stop": "stopped"}


@click.command("pause")
@study_option
@storage_options
@debug_option
def pause_command(study: str, storage: str | None, home: Path) -> None:
    """Let all workers of STUDY requeue their trials and wait until `hpo resume`."""
    _control_workers(study, storage, home, "pause")


@click.command("stop")
@study_option
@storage_options
@debug_option
def stop_command(study: str, storage: str | None, home: Path) -> None:
    """Let all workers of STUDY requeue their trials and leave; none starts before `hpo resume` or `hpo run`."""
    _control_workers(study, storage, home, "stop")


@click.command("resume")
@study_option
@storage_options
@debug_option
def resume_command(study: str, storage: str | None, home: Path) -> None:
    """Let the workers of STUDY go on after `hpo pause` or `hpo stop`."""
    _control_workers(study, storage, home, "run")


def _control_workers(study: str, storage: str | None, home: Path, word: str) -> None:
    with connected_study(storage, home, study) as (db, found):
        from storage import Control, lease_infos, set_control

        before = set_control(db, found, Control(word))
        leases = lease_infos(db, found)
    click.echo(f"study {study} {change(before, word)}: {consequence(study, before, word, leases)}")


def change(before: str, now: str) -> str:
    """Return `is paused`, and whether it was paused already, or what it was."""
    if before == now:
        return f"is {_WORDS[now]} already"
    return f"is {_WORDS[now]}" + ("" if before == "run" else f", no longer {_WORDS[before]}")


def consequence(study: str, before: str, now: str, leases: Sequence[LeaseInfo]) -> str:
    """Return what the workers do now, and the command that reverts it."""
    again = f"`{hint('resume', study=study)}`"
    if now == "pause":
        return f"{_requeue_line(leases, 'wait')}; {again} lets them go on"
    if now == "stop":
        return f"{_requeue_line(leases, 'leave')}; {again} allows them again"
    if before == "run":
        alive = sum(lease.alive for lease in leases)
        return _trained(alive) if alive else f"{_idle_line(leases)}; start workers with `hpo worker` or `hpo run`"
    if before == "pause":
        return "workers that waited go on at once; more may join with `hpo worker` or `hpo run`"
    return "workers that have left stay away; start new ones with `hpo worker` or `hpo run`"


def _requeue_line(leases: Sequence[LeaseInfo], then: str) -> str:
    """Return `3 trials are being trained: their workers requeue them within 20 s and wait, as all other workers do`.

    Trials are counted, not workers: a worker that trains none at the moment holds no lease.
    """
    from storage import RENEWALS

    alive = [lease for lease in leases if lease.alive]
    if not alive:
        return f"{_idle_line(leases)}; all workers {then}"
    within = f"within {max(lease.age + lease.left for lease in alive) / RENEWALS:.0f} s"
    one, several = f"its worker requeues it {within} and {then}s", f"their workers requeue them {within} and {then}"
    who = one if len(alive) == 1 else several
    return f"{_trained(len(alive))}: {who}, as all other workers do"


def _idle_line(leases: Sequence[LeaseInfo]) -> str:
    free = sum(lease.state == "free" for lease in leases)
    waiting = f", {free} interrupted trial{'s wait' if free > 1 else ' waits'} to be continued" if free else ""
    return f"no trial is being trained{waiting}"


def _trained(count: int) -> str:
    return f"{count} trial{'s are' if count > 1 else ' is'} being trained"


class Owner(click.ParamType[tuple[str, int]]):
    """A process as `hpo status` shows it: `HOST:PID`."""

    name = "owner"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        """Convert text to host and process id."""
        if isinstance(value, tuple):
            return value
        host, _, pid = str(value).rpartition(":")
        if not host or not pid.isdecimal():
            self.fail(f"{value!r} is not an owner; write HOST:PID, as `hpo status` shows it", param, ctx)
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
    """Requeue the trials of STUDY whose leases have expired; fail those that killed worker after worker.

    Workers do this by themselves whenever they look for a trial; this command is for a study without workers.
    """
    with connected_study(storage, home, study) as (db, found):
        from storage import Worker, expire_dead_neighbours, expire_leases, lease_infos, reap

        if owner is not None:
            worker = Worker(host=owner[0], pid=owner[1], place="")
            click.echo(ended_line(worker, expire_leases(db, found, worker)))
        expire_dead_neighbours(db, found)
        lines = reaped_lines(reap(db, found))
        held = [lease for lease in lease_infos(db, found) if lease.state == "held"]
    for line in lines or ["nothing to requeue"]:
        click.echo(line)
    for lease in held:
        click.echo(held_line(study, lease))


def ended_line(worker: Worker, ended: int) -> str:
    """Return how many leases of a dead process were ended."""
    if not ended:
        return f"{worker} holds no trial of this study"
    return f"{worker}: {ended} lease{'s' if ended > 1 else ''} ended"


def reaped_lines(reaped: Reaped) -> list[str]:
    """Return a line for each trial that was requeued or failed."""
    lines = [f"trial {number} is requeued; the next worker continues it" for number in reaped.requeued]
    return lines + [f"trial {number} has failed: worker after worker died of it" for number in reaped.failed]


def held_line(study: str, lease: LeaseInfo) -> str:
    """Return a line on a trial that a worker holds, and for how long."""
    who = f"trial {lease.number} is held by {lease.owner or 'an unknown worker'} ({lease.device or 'unknown device'})"
    if lease.left >= 0:
        return f"{who}, renewed {lease.age:.0f} s ago; its lease lasts {lease.left:.0f} s more unless it is renewed"
    return (
        f"{who}, whose lease expired {-lease.left:.0f} s ago; but the database was only just started, and it may still "
        f"renew: if it is dead, `{hint('reap', study=study, owner=lease.owner)}` puts the trial back now"
    )
