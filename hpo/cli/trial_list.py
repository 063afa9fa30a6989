"""Training a roster: its study is founded, workers train what is not trained yet, and all of it has ended then."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpo.cli.connect import cache_folder
from hpo.cli.progress import counting
from hpo.cli.run import data_lines
from hpo.cli.teamwork import LocalWorkerOptions, start_workers
from hpo.cli.watching import check_alive, stopped

if TYPE_CHECKING:
    import optuna

    from hpo.data import Dataset, SplitOptions
    from hpo.search.plan import Plan
    from search_spaces import PlannedTrial, Space, TrialList
    from storage import Database


WIDTH = 120
"""Columns of a table where no terminal says how many there are."""

name_option = click.option(
    "--name", default=None, help="Name of the study that trains.  [default: made from what it is about]"
)
"""Not --study: HPO_STUDY and hpo.toml name the study of the search."""

_BUILT_FROM = (
    "backbone", "pretrained", "weights", "normalisation", "image_size", "head_layers", "head_units",
    "head_activation", "drop_path",
)  # fmt: skip
"""What of a configuration decides how its network is built."""


def trial_list_plan(
    data: Path, name: str | None, roster: TrialList, *, metric: str, split: SplitOptions, max_unreadable: float
) -> Plan:
    """The plan of a study over `roster`; without a name it gets one by what it is about. StudyError for a bad one."""
    from hpo.search.plan import Plan
    from storage import check_study_name

    if name is not None:
        check_study_name(name)
    digest = None
    if path := roster.fixed.get("weights"):
        from hpo.models import weights_digest

        digest = weights_digest(Path(str(path)))
    return Plan(
        data=data, study=name or "", space=roster, weights_digest=digest, metric=metric, sampler="random",
        pruner="none", split=split, max_unreadable=max_unreadable,
    )  # fmt: skip


def create_or_open_trial_list(db: Database, plan: Plan, home: Path, command: str) -> tuple[Plan, optuna.Study]:
    """Build each kind of network once, decode the images, create or open the study; each step is told on stderr.

    A study that is created here remembers `command`.
    """
    from hpo.search.plan import check_models, create_or_open_study, open_data
    from hpo.search.trial_record import store_command

    for name, check in check_models(_kinds(plan.space)).items():
        click.echo(f"{name}: {check.parameters:,} parameters with two classes", err=True)
    with counting("decoding images") as progress:
        dataset = open_data(plan, cache_folder(home), progress, db=db)
    for line in data_lines(plan.data, dataset):
        click.echo(line, err=True)
    if not plan.study:
        plan = replace(plan, study=f"{plan.space.name}-{_digest(plan, dataset)}")
    study = create_or_open_study(db, plan, dataset)
    store_command(study, command)
    runs = len(study.get_trials(deepcopy=False))
    click.echo(f"study {plan.study}: {runs} runs; `hpo worker` trains at it from anywhere", err=True)
    return plan, study


def train_trial_list(
    ctx: click.Context, db: Database, plan: Plan, study: optuna.Study, staff: LocalWorkerOptions
) -> None:
    """Have every run of the roster trained that is not; leaves with the exit code of whoever stopped that before.

    Raises HpoError where no worker stays alive.
    """
    if not _unfinished(study):
        return
    team, look = start_workers(db, study, plan, staff)
    status = look()
    code = stopped(status, team)
    if code is not None:
        ctx.exit(code)
    check_alive(status, team)
    if left := _unfinished(study):
        click.echo(f"hpo: {left} runs are not finished; the same command goes on with them", err=True)
        ctx.exit(1)


def _unfinished(study: optuna.Study) -> int:
    return sum(not trial.state.is_finished() for trial in study.get_trials(deepcopy=False))


def _kinds(space: Space) -> TrialList:
    """The roster with one run for each network that is to be built."""
    from search_spaces import TrialList

    assert isinstance(space, TrialList)
    kinds: dict[tuple[Any, ...], PlannedTrial] = {}
    for entry in space.entries:
        kinds.setdefault(tuple(getattr(entry.config, field) for field in _BUILT_FROM), entry)
    return replace(space, entries=tuple(kinds.values()))


def _digest(plan: Plan, dataset: Dataset) -> str:
    """Eight characters for all that the study is about: the same command finds it again, another does not."""
    about = [plan.space.fingerprint, plan.weights_digest, plan.metric, dataset.fingerprint, dataset.split]
    options = [plan.split.seed, plan.split.val_fraction, plan.split.test_fraction, plan.max_unreadable]
    return hashlib.sha256(json.dumps([*about, *options]).encode()).hexdigest()[:8]
