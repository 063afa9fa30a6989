"""`hpo studies`, `hpo trials`, `hpo enqueue`, `hpo delete`: list studies and trials, enqueue values, delete a study."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpo.cli.connect import artifacts_folder, connected, connected_study, require_artifacts
from hpo.cli.options import artifacts_option, debug_option, storage_options, study_option
from hpo.errors import UsageError
from hpo.hints import hint
from hpo.strict_json import strict_json

if TYPE_CHECKING:
    import optuna

    from hpo.search.status import StudyStatus, TrialStatus
    from storage import Database


COLUMNS = ("number", "state", "value", "epoch", "epochs", "start", "end", "seconds", "reason", "worker")
"""The columns of `hpo trials --csv`, before the parameters."""

RARE = {
    "replicate_of": ("replicate_of",),
    "standard_error": ("standard_error",),
    "folds": ("fold", "of", "values", "standard_error"),
    "probe": ("probe",),
}
"""Key in the JSON of some trials -> its columns where a trial has it; the values of folds are divided by blanks."""

FIGURES = ("clean", "altered")
"""Columns with what a value is made of, in a study with a robustness above 0."""

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


@click.command("studies")
@storage_options
@json_option
@debug_option
def studies_command(storage: str | None, home: Path, as_json: bool) -> None:
    """List the studies of the database, in the order of their creation, with their trials by state."""
    with connected(storage, home) as db:
        from hpo.search.status import STATES
        from storage import study_counts

        found = {
            name: {word: counts.get(state.name, 0) for state, word in STATES.items()}
            for name, counts in study_counts(db).items()
        }
    if as_json:
        click.echo(strict_json([{"study": name, "trials": counts} for name, counts in found.items()], indent=2))
    elif found:
        _print_table(["study", *STATES.values()], [[name, *map(str, of.values())] for name, of in found.items()])
    else:
        click.echo("there is no study yet; make one with `hpo run` or `hpo init`")


@click.command("trials")
@click.argument("study", envvar="HPO_STUDY")
@storage_options
@json_option
@click.option("--csv", "as_csv", is_flag=True, help="Print a CSV with a header and a row for each trial.")
@debug_option
def trials_command(study: str, storage: str | None, home: Path, as_json: bool, as_csv: bool) -> None:
    """List every trial of STUDY: state, value, parameters, start and end, and why it ended where that is known."""
    if as_json and as_csv:
        raise UsageError("--json contradicts --csv; give one of them")
    with connected_study(storage, home, study) as (db, found):
        from hpo.search.status import StudyReader

        status = StudyReader(db, found)()
        rows = _trials(status, found)
    if as_json:
        click.echo(strict_json(rows, indent=2))
    elif as_csv:
        _print_csv(rows, FIGURES if status.robustness else ())
    else:
        _print_trials(status)


def _trials(status: StudyStatus, study: optuna.Study) -> list[dict[str, Any]]:
    """Return each trial as its row of JSON has it."""
    times = {one.number: (one.datetime_start, one.datetime_complete) for one in study.get_trials(deepcopy=False)}
    return [
        {**trial.to_dict(), **dict(zip(("start", "end"), map(_utc, times[trial.number]), strict=True))}
        for trial in status.trials
    ]


def _utc(local: datetime | None) -> str | None:
    """Return a time that optuna gives as text in UTC; None where there is none."""
    from hpo.search.status import moment

    return moment(local).isoformat(timespec="milliseconds") if local else None


def _print_csv(rows: list[dict[str, Any]], figures: Sequence[str]) -> None:
    """Print the rows, with the columns `figures` and those of RARE that some trial has."""
    from hpo.spreadsheet import CsvRows

    names = list(dict.fromkeys(name for row in rows for name in row["params"]))
    known = set().union(*rows)
    extra = [*figures, *(column for field, columns in RARE.items() if field in known for column in columns)]
    table = CsvRows(sys.stdout)
    table.write([*COLUMNS, *extra, *(f"param_{name}" for name in names)])
    for row in rows:
        folds = {**row.get("folds", {}), "values": " ".join(map(str, row.get("folds", {}).get("values", ())))}
        table.write(
            [
                *(row[column] for column in COLUMNS),
                *({**row, **folds}.get(column) for column in extra),
                *(row["params"].get(name) for name in names),
            ]
        )


def _print_trials(status: StudyStatus) -> None:
    """Print a table with a row for each trial; the column of reasons only where a trial has one."""
    figures = FIGURES if status.robustness else ()
    titles = ["trial", "state", status.value_name, *figures, "epochs", "time", "parameters", "reason"]
    cells = [_cells(trial, len(figures)) for trial in status.trials]
    if not any(line[-1] for line in cells):
        titles, cells = titles[:-1], [line[:-1] for line in cells]
    _print_table(titles, cells)


def _cells(trial: TrialStatus, figures: int) -> list[str]:
    from hpo.cli.status import duration, epochs_in_words, tried_by, value_of

    value = value_of(trial)
    pair = [f"{figure:.4f}" for figure in trial.pair] if trial.pair else [""] * figures
    time = duration(trial.seconds) if trial.seconds else ""
    rest = [epochs_in_words(trial), time, tried_by(trial), trial.reason or ""]
    return [str(trial.number), trial.state, value, *pair, *rest]


def _print_table(titles: list[str], rows: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in titles:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)


@click.command("enqueue")
@study_option
@click.argument("values", nargs=-1, required=True, metavar="KEY=VALUE...")
@storage_options
@debug_option
def enqueue_command(study: str, values: tuple[str, ...], storage: str | None, home: Path) -> None:
    """Have STUDY try these values next; what is left out is sampled.

    A key that is unknown or fixed in the study, a value out of its range, and a key that does not exist under the other
    values are refused.
    """
    with connected_study(storage, home, study) as (_, found):
        from hpo.search.ranking import replicated
        from hpo.search.resolved_space import assignments
        from search_spaces import TrialList, read_space
        from storage import read_limits, read_spec

        space = read_space(read_spec(found).space)
        if isinstance(space, TrialList):
            raise UsageError(f"{study} trains a list of runs, to which nothing can be added")
        params = space.parameters(assignments(values, ""))
        found.enqueue_trial(params)
        trials = found.get_trials(deepcopy=False)
        limits, taken = read_limits(found), sum(trial.state.name != "WAITING" for trial in trials)
        original = replicated(params, trials[-1].number, trials)
    click.echo(f"trial {trials[-1].number} waits with {', '.join(f'{key}={value}' for key, value in params.items())}")
    if original is not None:
        click.echo(f"trial {original} has these values: the new one repeats it with a fresh seed", err=True)
    if limits.converged is not None:
        click.echo("the study has converged: `hpo run` with --no-until-converged has it tried", err=True)
    elif limits.trials is not None and taken >= limits.trials:
        click.echo(f"the study has its {limits.trials} trials: `hpo run` with more --trials has it tried", err=True)


@click.command("delete")
@click.argument("name", metavar="STUDY")  # not the one that HPO_STUDY or hpo.toml names: it is written out each time
@click.option("--yes", is_flag=True, help="Do not ask.")
@storage_options
@artifacts_option
@debug_option
def delete_command(name: str, yes: bool, storage: str | None, home: Path, artifacts: Path | str | None) -> None:
    """Delete STUDY with its trials, checkpoints and logs. It asks first, and refuses while a worker trains for it.

    Packed images stay, since other studies share them; so do checkpoints that a copy of the study shares.
    """
    root = artifacts_folder(artifacts, home)
    with connected_study(storage, home, name) as (db, found):
        from storage import (
            delete_study,
            lease_infos,
            read_spec,
            refuse_foreign_files,
            remove_checkpoints,
            studies_with_same_id,
        )

        identity = read_spec(found).id
        _refuse_alive(db, found)
        was_worked_on = bool(lease_infos(db, found))
        if was_worked_on:
            require_artifacts(root)
        noted = refuse_foreign_files(db, root, identity)
        trials = len(found.get_trials(deepcopy=False))
        if not yes:
            _confirm(f"study {name} with its {trials} trials, checkpoints and logs in {db.where}")
            _refuse_alive(db, found)
        shared = [other.study_name for other in studies_with_same_id(found)]
        delete_study(db, name)
        if shared:
            click.echo(f"its checkpoints stay: {', '.join(shared)} shares them", err=True)
        else:
            if was_worked_on and not noted:
                click.echo(f"{root} has no note of this study; checkpoints under another --artifacts stay", err=True)
            remove_checkpoints(root, identity)
            shutil.rmtree(home / "logs" / identity, ignore_errors=True)
    click.echo(f"study {name} is deleted, {trials} trials")


def _refuse_alive(db: Database, study: optuna.Study) -> None:
    """Raise UsageError while a worker holds a trial of the study, whose training would be lost."""
    from storage import lease_infos

    alive = [lease for lease in lease_infos(db, study) if lease.alive]
    if alive:
        raise UsageError(
            f"{alive[0].owner} trains trial {alive[0].number} of study {study.study_name}; let it leave first: "
            f"`{hint('stop', study=study.study_name)}`, or, if it is dead, "
            f"`{hint('reap', study=study.study_name, owner=alive[0].owner)}`"
        )


def _confirm(what: str) -> None:
    """Ask whether `what` may be deleted; UsageError where it may not, or where there is no terminal to ask on."""
    if not sys.stdin.isatty():
        raise UsageError(f"deleting {what} must be confirmed, but stdin is not a terminal: give --yes")
    if not click.confirm(f"delete {what}?", err=True):
        raise UsageError("nothing was deleted")
