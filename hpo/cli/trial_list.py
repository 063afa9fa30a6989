"""Steps that `compare` and `ablate` share: training a trial list by workers, printing and writing the figures."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpo.cli.connect import cache_folder
from hpo.cli.options import command_line
from hpo.cli.progress import counting
from hpo.cli.run import data_lines
from hpo.cli.watching import check_alive, report_stop
from hpo.cli.worker_pool import LocalWorkerOptions, run_workers

if TYPE_CHECKING:
    import optuna
    from rich.console import Console

    from hpo.search.plan import Plan
    from storage import Database


WIDTH = 140
"""Columns of a table if stdout is not a terminal."""

name_option = click.option(
    "--name", default=None, help="Name of the study that trains.  [default: made from what it is about]"
)
"""Not --study, because HPO_STUDY and hpo.toml name the study of the search."""


def train_plan(ctx: click.Context, db: Database, local: LocalWorkerOptions, plan: Plan) -> optuna.Study:
    """Create or open the study of a trial list and train every trial that is not finished; return the study.

    Exits with the stopping process's code if training is interrupted. Raises HpoError if no worker stays alive.
    """
    from hpo.experiments.trial_list_study import unfinished_trials

    plan, study = _create_or_open(db, plan, local.home, command_line(ctx))
    if not unfinished_trials(study):
        return study
    workers, read_status = run_workers(db, study, plan, local)
    status = read_status()
    code = report_stop(status, workers)
    if code is not None:
        ctx.exit(code)
    check_alive(status, workers)
    if left := unfinished_trials(study):
        click.echo(f"hpo: {left} runs are not finished; the same command goes on with them", err=True)
        ctx.exit(1)
    return study


def _create_or_open(db: Database, plan: Plan, home: Path, command: str) -> tuple[Plan, optuna.Study]:
    """Build each kind of network once, decode the images, create or open the study; report each step on stderr.

    A study that is created here stores `command`.
    """
    from hpo.data.opening import count_classes
    from hpo.experiments.trial_list_study import named_plan, one_trial_per_network
    from hpo.search.plan import check_models, create_or_open_study, open_data
    from hpo.search.trial_record import store_command

    classes = count_classes(plan.data)
    for name, check in check_models(one_trial_per_network(plan.space), classes).items():
        click.echo(f"{name}: {check.parameters:,} parameters with {classes} classes", err=True)
    with counting("decoding images") as progress:
        dataset = open_data(plan, cache_folder(home), progress, db=db)
    for line in data_lines(plan.data, dataset):
        click.echo(line, err=True)
    if plan.split.folds:
        click.echo(f"of the {plan.split.folds} folds every run here trains the first alone", err=True)
    plan = named_plan(plan, dataset)
    study = create_or_open_study(db, plan, dataset)
    store_command(study, command)
    runs = len(study.get_trials(deepcopy=False))
    click.echo(f"study {plan.study}: {runs} runs; workers on other machines may join with `hpo worker`", err=True)
    return plan, study


def table_console() -> Console:
    """Return the console for tables: as wide as the terminal, or WIDTH."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else WIDTH)


def write_figures(out: Path | None, files: Mapping[str, bytes]) -> None:
    """Write the files of a comparison or an ablation to the folder `out`, if one is given."""
    from hpo.experiments.outputs import write_outputs

    if out is not None:
        write_outputs(out, files)
        click.echo(f"\n{out}: {', '.join(files)}")
