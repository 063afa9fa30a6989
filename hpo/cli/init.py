"""`hpo init`: create a study, or open it where it exists with the same space and data."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpo.cli.connect import STARTING, cache_folder, connected
from hpo.cli.options import (
    budget_options,
    data_argument,
    debug_option,
    max_unreadable_option,
    space_options,
    storage_options,
    study_creation_options,
    study_option,
    together,
)

if TYPE_CHECKING:
    import optuna

    from hpo.data import Dataset
    from hpo.search.plan import Plan
    from storage import Database

creation_options = together(study_option, space_options, budget_options, study_creation_options, max_unreadable_option)
"""All that a study is made from; `make_plan` takes them."""

SYMMETRIES = {
    "none": "no image is mirrored or turned by quarters; where labels survive it, --set symmetry=mirror or dihedral",
    "mirror": "augmentation mirrors images left to right",
    "dihedral": "augmentation mirrors images and turns them by quarters",
}
"""What a space's symmetry means for the images."""


@click.command("init")
@data_argument
@creation_options
@storage_options
@debug_option
def init_command(
    storage: str | None, home: Path,
    trials: int | None, timeout: timedelta | None, **creation: Any,
) -> None:  # fmt: skip
    """Create the study once, however many call it at the same time; workers then join with `hpo worker`.

    DATA is a folder of class folders, a folder with train/ val/ test/ of class folders, a zip of either,
    an .npz (images, labels) or a CSV (path,label[,split]).
    """
    plan = make_plan(**creation)
    with connected(storage, home, initialise=True, patience=STARTING) as db:
        study, _ = found(db, plan, home)
        from hpo.search.plan import set_budget

        limits = set_budget(db, study, trials, timeout)
        click.echo(f"study {study.study_name} is ready for {limits.trials} trials, in {db.where}")


def make_plan(*, data: Path, study: str, space: str, backbone: str | None, weights: Path | None,
              fixed: tuple[str, ...], **rest: Any) -> Plan:  # fmt: skip
    """Options to a Plan; whatever needs neither database nor images is checked here."""
    from hpo.data import SplitOptions
    from hpo.search.plan import Plan, check_path, earlier_space, resolve_space
    from storage import check_study_name

    check_path(data)
    check_study_name(study)
    resolved = resolve_space(space, backbone=backbone, weights=weights, fixed=fixed)
    earlier = earlier_space(space, backbone=backbone, weights=weights, fixed=fixed)
    digest = None
    if path := resolved.fixed.get("weights"):
        from hpo.training import weights_digest

        digest = weights_digest(Path(str(path)))
    split = SplitOptions(seed=rest["seed"], val_fraction=rest["val_fraction"], test_fraction=rest["test_fraction"])
    return Plan(
        data=data, study=study, space=resolved, weights_digest=digest, metric=rest["metric"],
        sampler=rest["sampler"], pruner=rest["pruner"], split=split, max_unreadable=rest["max_unreadable"],
        earlier=earlier,
    )  # fmt: skip


def found(db: Database, plan: Plan, home: Path) -> tuple[optuna.Study, Dataset]:
    """Try the backbones, decode the images, create or open the study; each step is told on stderr."""
    from hpo.cli.progress import counting
    from hpo.search.plan import as_made, check_models, found_study, open_data

    plan, note = as_made(db, plan)
    if note:
        click.echo(note, err=True)
    if (symmetry := plan.space.fixed.get("symmetry")) is not None:
        click.echo(f"symmetry {symmetry}: {SYMMETRIES[str(symmetry)]}", err=True)
    for name, check in check_models(plan.space).items():
        start = check.weights or ("weights of timm" if plan.space.fixed.get("pretrained", True) else "random weights")
        click.echo(f"{name}: {check.parameters:,} parameters with two classes; {start}", err=True)
    with counting("decoding images") as progress:
        dataset = open_data(plan, cache_folder(home), progress, db=db)
    for line in data_lines(plan.data, dataset):
        click.echo(line, err=True)
    return found_study(db, plan, dataset), dataset


def data_lines(path: Path, dataset: Dataset) -> list[str]:
    """What was understood of DATA: a line on the whole, then what the summary tells."""
    from hpo.data.summary import summarise

    parts = f"{len(dataset.train):,} train, {len(dataset.val):,} val, {dataset.test_count:,} test"
    return [f"{path}: {len(dataset.classes)} classes, {parts} ({dataset.split})", *summarise(dataset).lines()]
