"""`hpo run`: the main job in one command: init, K workers, a live view, a summary."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from hpo.cli.connect import STARTING, connected
from hpo.cli.init import creation_options, found, make_plan
from hpo.cli.options import data_argument, keep_option
from hpo.cli.teamwork import Staff, employ, team_options
from hpo.cli.watching import check_alive, stopped
from hpo.hints import hint

if TYPE_CHECKING:
    from hpo.search.overview import Overview
    from hpo.search.team import Team


@click.command("run")
@data_argument
@creation_options
@keep_option
@team_options
@click.pass_context
def run_command(ctx: click.Context, /, trials: int | None, timeout: timedelta | None, **options: Any) -> None:
    """Search for the best classifier of DATA: create the study, start workers, watch them, sum up.

    The same command goes on where an earlier one stopped. DATA is a folder of class folders, a folder with
    train/ val/ test/ of class folders, a zip of either, an .npz (images, labels) or a CSV (path,label[,split]).
    """
    started = time.monotonic()
    from hpo.search.device import resolve_device

    staff = Staff.taken_from(options)
    plan = make_plan(**options)
    resolve_device(staff.device)  # a wrong one is told before the images are decoded
    with connected(staff.storage, staff.home, initialise=True, patience=STARTING) as db:
        study, _ = found(db, plan, staff.home)
        from hpo.search.plan import set_budget, settle_deadline
        from storage import Worker

        if timeout is not None:  # what getting ready took is part of it
            timeout = max(timedelta(), timeout - timedelta(seconds=time.monotonic() - started))
        elif line := settle_deadline(db, study):
            click.echo(f"study {study.study_name}: {line}", err=True)
        set_budget(db, study, trials, timeout, run=Worker())
        team, look = employ(db, study, plan, staff)
        code = summarise(look(), team)
    ctx.exit(code)


def summarise(overview: Overview, team: Team) -> int:
    """Print how it ended and what to do next; the exit code."""
    from rich.console import Console

    from hpo.cli.view import draw

    Console().print(draw(overview, shown=len(overview.lines)))
    code = stopped(overview, team)
    if code is not None:
        return code
    spent = overview.limits.trials is not None and overview.counts["finished"] >= overview.limits.trials
    if spent:
        for line in untried(overview):
            click.echo(line, err=True)
    if overview.best is not None:
        click.echo(f"\nnext: {hint('export-best', study=overview.study, out='best/')}")
    check_alive(overview, team)
    if overview.best is None and overview.counts["finished"]:
        click.echo(f"\n{without_a_model(overview)}", err=True)
        return 1
    if overview.out_of_time and not overview.counts["finished"]:
        click.echo("\nthe time was up before a trial was finished: give a longer --timeout, or none", err=True)
    # A worker that died is no failure where others have gone on with its trial.
    return 1 if team.died and not spent else 0


def untried(overview: Overview) -> list[str]:
    """What a spent budget of trials leaves waiting, a line each."""
    waiting = [line for line in overview.lines if line.state == "waiting"]
    begun = sum(line.worker is not None for line in waiting)
    counts = {"interrupted trials that stay as they are": begun, "known-good points not tried": len(waiting) - begun}
    room = overview.counts["finished"] + len(waiting)
    reached = f"--trials {overview.limits.trials} is reached, --trials {room} has room for them"
    return [f"{what}: {count}; {reached}" for what, count in counts.items() if count]


def without_a_model(overview: Overview) -> str:
    """Why no trial of a search is usable, and what to change; the same search again would give the same."""
    ended = [line for line in overview.lines if line.state in ("pruned", "failed")]
    diverged, memory = (sum(name in line.violated for line in ended) for name in ("diverged", "memory"))
    failed = sum(line.state == "failed" for line in ended)
    pruned = len(ended) - diverged - memory - failed
    kinds = {"diverged": diverged, "did not fit the memory": memory, "failed": failed, "were pruned": pruned}
    counted = ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count)
    first = next((f"; trial {line.number}: {line.reason}" for line in ended if line.reason), "")
    if diverged:
        advice = "the learning rate is too high: make another study with a lower --set learning_rate or --space"
    elif memory:
        advice = "make another study with a smaller --set batch_size or image_size, or a smaller --backbone"
    elif failed:
        advice = "`hpo doctor DATA` and the log of the workers say more"
    else:
        advice = "the pruner left none: give more --trials, or make another study with --pruner none"
    return f"no trial gave a model: {counted}{first}\nnext: {advice}"
