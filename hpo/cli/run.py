"""`hpo init` creates a study; `hpo run` creates it, starts workers, shows them and sums up."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from hpo.cli.cleaning import Cleaning, cheap_findings, cleaning_options, with_changes
from hpo.cli.confirm_text import budget_lines
from hpo.cli.connect import STARTING, cache_folder, connected
from hpo.cli.options import (
    budget_options,
    data_argument,
    debug_option,
    grouping_options,
    keep_option,
    max_unreadable_option,
    space_options,
    storage_options,
    study_creation_options,
    study_option,
    together,
)
from hpo.cli.watching import check_alive, report_stop
from hpo.cli.worker_pool import LocalWorkerOptions, run_workers, worker_pool_options
from hpo.errors import UsageError
from hpo.hints import hint

if TYPE_CHECKING:
    import optuna

    from hpo.data import Dataset
    from hpo.search.local_workers import LocalWorkers
    from hpo.search.plan import Plan
    from hpo.search.status import StudyStatus, TrialStatus
    from storage import Database


creation_options = together(
    study_option,
    space_options,
    budget_options,
    study_creation_options,
    grouping_options,
    max_unreadable_option,
    cleaning_options,
)
"""All that a study is made from, as `make_plan` takes it."""


@click.command("init")
@data_argument
@creation_options
@storage_options
@debug_option
def init_command(
    storage: str | None, home: Path,
    trials: int | None, timeout: timedelta | None, until_converged: bool | None, confirm: int | None,
    **creation: Any,
) -> None:  # fmt: skip
    """Create the study once, however many call it at the same time; workers then join with `hpo worker`.

    DATA is a folder of class folders, a folder with train/ val/ test/ of class folders, a zip of either,
    an .npz (images, labels) or a CSV (path,label[,split]).
    """
    plan = make_plan(**creation, trials=trials)
    cleaning = Cleaning.from_options(creation["data"], creation)
    with connected(storage, home, initialise=True, start_timeout=STARTING) as db:
        study, _ = prepare_study(db, plan, home, cleaning)
        from hpo.search.plan import set_budget

        limits = set_budget(db, study, trials, timeout, until_converged=until_converged, confirm=confirm)
        for line in budget_lines(limits):
            click.echo(line, err=True)
        click.echo(f"study {study.study_name} is ready for {limits.trials} trials, in {db.where}")


def make_plan(*, data: Path, study: str, space: str, backbone: str | None, weights: Path | None,
              fixed: tuple[str, ...], **rest: Any) -> Plan:  # fmt: skip
    """Return the plan of the options; all that needs neither database nor images is checked."""
    from hpo.data import SplitOptions
    from hpo.data.opening import check_path
    from hpo.search.earlier_spaces import earlier_spaces
    from hpo.search.plan import Plan
    from hpo.search.resolved_space import resolve_space
    from storage import check_study_name

    check_path(data)
    check_study_name(study)
    resolved = resolve_space(space, backbone=backbone, weights=weights, fixed=fixed)
    earlier = earlier_spaces(space, backbone=backbone, weights=weights, fixed=fixed)
    digest = None
    if path := resolved.fixed.get("weights"):
        from hpo.models import weights_digest

        digest = weights_digest(Path(str(path)))
    names = ("seed", "val_fraction", "test_fraction", "max_unreadable", "group_by", "folds")
    split = SplitOptions(**{name: rest[name] for name in names})
    if split.folds and split.val_fraction != SplitOptions().val_fraction:
        raise UsageError(
            f"--val-fraction {split.val_fraction:g} has no effect with --folds {split.folds}, where each fold "
            "validates its share: leave one of them out"
        )
    return Plan(
        data=data, study=study, space=resolved, weights_digest=digest, metric=rest["metric"],
        sampler=rest["sampler"], pruner=rest["pruner"], split=split, robustness=rest["robustness"], earlier=earlier,
        names_space=bool(backbone or weights or fixed) or _names_space(), trials=rest.get("trials"),
        probe=rest["probe"],
    )  # fmt: skip


def _names_space() -> bool:
    """Return whether the command that runs was given --space: as an option, in the environment or in hpo.toml."""
    context = click.get_current_context(silent=True)
    return context is None or context.get_parameter_source("space") is not ParameterSource.DEFAULT


def prepare_study(db: Database, plan: Plan, home: Path, cleaning: Cleaning) -> tuple[optuna.Study, Dataset]:
    """List the images, build the backbones, decode the images, create or open the study; print each step on stderr."""
    from hpo.cli.progress import counting
    from hpo.data.opening import count_classes
    from hpo.search.data_dimensions import data_dimension_lines
    from hpo.search.earlier_spaces import with_earlier_space, with_stored_space
    from hpo.search.plan import check_models, create_or_open_study, open_data, probes_of, refuse_another_search
    from hpo.search.planned_probes import probe_lines
    from hpo.search.symmetry_choice import choose_symmetry, record_symmetry

    classes = count_classes(plan.data)  # before the weights, which may have to be downloaded
    plan, note = with_earlier_space(db, plan)
    if note is None:
        plan, note = with_stored_space(db, plan)
    if note:
        click.echo(note, err=True)
    refuse_another_search(db, plan)
    for name, check in check_models(plan.space, classes).items():
        start = check.weights or ("weights of timm" if plan.space.fixed.get("pretrained", True) else "random weights")
        click.echo(f"{name}: {check.parameters:,} parameters with {classes} classes; {start}", err=True)
    plan = with_changes(db, plan, cleaning, home)
    with counting("decoding images") as progress:
        dataset = open_data(plan, cache_folder(home), progress, db=db)
    for line in [*data_lines(plan.data, dataset), *cheap_findings(plan, dataset, home)]:
        click.echo(line, err=True)
    plan, symmetry = choose_symmetry(db, plan, dataset)
    for line in [*([symmetry.line] if symmetry else []), *data_dimension_lines(plan.space, dataset)]:
        click.echo(line, err=True)
    study = create_or_open_study(db, plan, dataset)
    record_symmetry(study, symmetry)
    for line in [*robustness_lines(study, dataset), *probe_lines(study, probes_of(plan))]:
        click.echo(line, err=True)
    return study, dataset


def robustness_lines(study: optuna.Study, dataset: Dataset) -> list[str]:
    """Return what a trial's value is made of, in a line; nothing where clean images alone count."""
    from storage import read_spec

    spec = read_spec(study)
    if not spec.robustness:
        return []
    from hpo.evaluation.altered_part import DRAWS, altered_count

    train, val = dataset.fold(0)
    count = altered_count(val.labels, train=len(train))
    where = " of each fold" if dataset.folds else ""
    return [
        f"robustness {spec.robustness:g}: a trial's value is {1 - spec.robustness:.4g} of its {spec.metric} on the "
        f"validation images{where} and {spec.robustness:g} of that on {count:,} altered ones ({count // DRAWS:,} of "
        f"them, {DRAWS} draws each)"
    ]


def data_lines(path: Path, dataset: Dataset) -> list[str]:
    """Return what was found in DATA: a line on the whole, then those of the summary."""
    from hpo.data.summary import summarise

    parts = f"{len(dataset.train):,} train, {len(dataset.val):,} val, {dataset.test_count:,} test"
    return [f"{path}: {len(dataset.classes)} classes, {parts} ({dataset.split})", *summarise(dataset).lines()]


@click.command("run")
@data_argument
@creation_options
@keep_option
@worker_pool_options
@click.pass_context
def run_command(
    ctx: click.Context,
    /,
    trials: int | None,
    timeout: timedelta | None,
    until_converged: bool | None,
    confirm: int | None,
    **options: Any,
) -> None:
    """Search for the best classifier of DATA: create the study, start workers, watch them, sum up.

    The same command goes on where an earlier one stopped. DATA is a folder of class folders, a folder with
    train/ val/ test/ of class folders, a zip of either, an .npz (images, labels) or a CSV (path,label[,split]).
    """
    started = time.monotonic()
    from hpo.device import resolve_device

    local = LocalWorkerOptions.from_options(options)
    plan = make_plan(**options, trials=trials)
    cleaning = Cleaning.from_options(options["data"], options)
    resolve_device(local.device)  # raises for a wrong device before the images are decoded
    with connected(local.storage, local.home, initialise=True, start_timeout=STARTING) as db:
        study, _ = prepare_study(db, plan, local.home, cleaning)
        from hpo.search.plan import keep_or_lift_deadline, set_budget
        from storage import Worker

        if timeout is not None:  # the preparation is part of it
            timeout = max(timedelta(), timeout - timedelta(seconds=time.monotonic() - started))
        elif line := keep_or_lift_deadline(db, study):
            click.echo(f"study {study.study_name}: {line}", err=True)
        limits = set_budget(db, study, trials, timeout, run=Worker(), until_converged=until_converged, confirm=confirm)
        for line in budget_lines(limits):
            click.echo(line, err=True)
        workers, read_status = run_workers(db, study, plan, local)
        code = summarise(read_status(), workers)
    ctx.exit(code)


def summarise(status: StudyStatus, workers: LocalWorkers) -> int:
    """Print how the search ended and what to do next; return the exit code."""
    from rich.console import Console

    from hpo.cli.status import draw

    Console().print(draw(status, shown=len(status.trials)))
    code = report_stop(status, workers)
    if code is not None:
        return code
    spent = _is_spent(status)
    for line in untried(status) if spent else ():
        click.echo(line, err=True)
    if status.best is not None:
        click.echo(f"\nnext: {hint('export-best', study=status.study, out='best/')}")
    check_alive(status, workers)
    if status.best is None and status.counts["finished"]:
        click.echo(f"\n{without_a_model(status)}", err=True)
        return 1
    if status.out_of_time and not status.counts["finished"]:
        click.echo("\nthe time was up before a trial was finished: give a longer --timeout, or none", err=True)
    # A worker that died is no failure where another finished its trial.
    return 1 if workers.died and not spent else 0


def _is_spent(status: StudyStatus) -> bool:
    """Return whether no trial is left to train, by the limit of trials or because the study has converged.

    The interrupted trials of a converged study are left to train.
    """
    reached = status.limits.trials is not None and status.counts["finished"] >= status.limits.trials
    return reached or (status.limits.converged is not None and not any(map(_is_interrupted, status.trials)))


def _is_interrupted(line: TrialStatus) -> bool:
    return line.state == "waiting" and line.worker is not None


def untried(status: StudyStatus) -> list[str]:
    """Return a line for each kind of trial that a spent budget leaves waiting."""
    waiting = [line for line in status.trials if line.state == "waiting"]
    begun = sum(map(_is_interrupted, waiting))
    probes = sum(line.worker is None and line.probe is not None for line in waiting)
    counts = {
        "interrupted trials that stay as they are": begun,
        "frozen probes not made": probes,
        "known-good points not tried": len(waiting) - begun - probes,
    }
    room = status.counts["finished"] + len(waiting)
    reached = f"--trials {status.limits.trials} is reached, --trials {room} has room for them"
    if status.limits.converged is not None:
        reached = "the study has converged, --no-until-converged goes on with them"
    return [f"{what}: {count}; {reached}" for what, count in counts.items() if count]


def without_a_model(status: StudyStatus) -> str:
    """Return why no trial of a search gave a model, and what to change."""
    ended = [line for line in status.trials if line.state in ("pruned", "failed")]
    endings = _count_endings(ended)
    counted = ", ".join(f"{count} {kind}" for kind, count in endings.items() if count)
    first = next((f"; trial {line.number}: {line.reason}" for line in ended if line.reason), "")
    advice = next((_ADVICE[kind] for kind, count in endings.items() if count), _ADVICE["were pruned"])
    return f"no trial gave a model: {counted}{first}\nnext: {advice}"


_ADVICE = {
    "diverged": "the learning rate is too high: make another study with a lower --set learning_rate or --space",
    "did not fit the memory": (
        "make another study with a smaller --set batch_size or image_size, or a smaller --backbone"
    ),
    "failed": "`hpo doctor DATA` and the log of the workers say more",
    "were pruned": "the pruner left none: give more --trials, or make another study with --pruner none",
}
"""How trials ended -> what to do. The first kind that occurred decides."""


def _count_endings(ended: Sequence[TrialStatus]) -> dict[str, int]:
    """Count the trials by how they ended, in the order of `_ADVICE`."""
    diverged, memory = (sum(name in line.violated for line in ended) for name in ("diverged", "memory"))
    failed = sum(line.state == "failed" for line in ended)
    counts = (diverged, memory, failed, len(ended) - diverged - memory - failed)
    return dict(zip(_ADVICE, counts, strict=True))
