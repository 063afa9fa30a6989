"""`hpo pause`, `hpo stop`, `hpo resume`: one word to all workers of a study, wherever they run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpo.cli.existing import existing
from hpo.cli.options import debug_option, storage_options, study_option
from hpo.hints import hint

if TYPE_CHECKING:
    from storage import Holding

_WORDS = {"run": "running", "pause": "paused", "stop": "stopped"}


@click.command("pause")
@study_option
@storage_options
@debug_option
def pause_command(study: str, storage: str | None, home: Path) -> None:
    """Let all workers of STUDY put their trials back and wait until `hpo resume`."""
    _tell(study, storage, home, "pause")


@click.command("stop")
@study_option
@storage_options
@debug_option
def stop_command(study: str, storage: str | None, home: Path) -> None:
    """Let all workers of STUDY put their trials back and leave; none starts before `hpo resume` or `hpo run`."""
    _tell(study, storage, home, "stop")


@click.command("resume")
@study_option
@storage_options
@debug_option
def resume_command(study: str, storage: str | None, home: Path) -> None:
    """Let the workers of STUDY go on after `hpo pause` or `hpo stop`."""
    _tell(study, storage, home, "run")


def _tell(study: str, storage: str | None, home: Path, word: str) -> None:
    with existing(storage, home, study) as (db, found):
        from storage import Control, holdings, set_control

        before = set_control(db, found, Control(word))
        leases = holdings(db, found)
    click.echo(f"study {study} {change(before, word)}: {consequence(study, before, word, leases)}")


def change(before: str, now: str) -> str:
    """`is paused`, and whether it was so already, or what it was."""
    if before == now:
        return f"is {_WORDS[now]} already"
    return f"is {_WORDS[now]}" + ("" if before == "run" else f", no longer {_WORDS[before]}")


def consequence(study: str, before: str, now: str, leases: Sequence[Holding]) -> str:
    """What happens next, and the way back."""
    again = f"`{hint('resume', study=study)}`"
    if now == "pause":
        return f"{_put_back(leases, 'wait')}; {again} lets them go on"
    if now == "stop":
        return f"{_put_back(leases, 'leave')}; {again} allows them again"
    if before == "run":
        alive = _alive(leases)
        return (
            f"{_workers(alive)} at work" if alive else f"{_idle(leases)}; start workers with `hpo worker` or `hpo run`"
        )
    if before == "pause":
        return "workers that waited go on at once; more may join with `hpo worker` or `hpo run`"
    return "workers that have left stay away; start new ones with `hpo worker` or `hpo run`"


def _put_back(leases: Sequence[Holding], then: str) -> str:
    """`3 workers put their trials back within a renewal (20 s) and wait`."""
    from storage import RENEWALS

    alive = _alive(leases)
    if not alive:
        return f"{_idle(leases)}, and workers that come {then}"
    within = f"within a renewal ({max(lease.age + lease.left for lease in alive) / RENEWALS:.0f} s)"
    if len(alive) == 1:
        return f"{_workers(alive)} puts its trial back {within} and {then}s"
    return f"{_workers(alive)} put their trials back {within} and {then}"


def _idle(leases: Sequence[Holding]) -> str:
    free = sum(lease.state == "free" for lease in leases)
    waiting = f", {free} interrupted trial{'s wait' if free > 1 else ' waits'} to be gone on with" if free else ""
    return f"nobody trains{waiting}"


def _alive(leases: Sequence[Holding]) -> list[Holding]:
    return [lease for lease in leases if lease.alive]


def _workers(alive: Sequence[Holding]) -> str:
    return f"{len(alive)} worker{'s' if len(alive) > 1 else ''}"
