"""`hpo ablate`: what each part of a bundle's configuration is worth, by training without it under several seeds."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpo.cli.connect import STARTING, cache_folder, connected
from hpo.cli.delivery import bundle_argument, data_option
from hpo.cli.options import UserPath, command_line, weights_option
from hpo.cli.progress import counting
from hpo.cli.teamwork import LocalWorkerOptions, team_options
from hpo.cli.trial_list import WIDTH, create_or_open_trial_list, name_option, train_trial_list, trial_list_plan
from hpo.errors import UsageError
from hpo.hints import hint
from hpo.private_paths import public_config

if TYPE_CHECKING:
    import optuna

    from hpo.bundle.manifest import Manifest
    from hpo.data import Dataset
    from hpo.experiments.ablation import AblationOutcome, VariationResult
    from hpo.experiments.ablation_parts import AblationPart, Variation
    from search_spaces import TrialConfig
    from storage import Database


@click.command("ablate")
@bundle_argument
@data_option
@click.option("--seeds", type=click.IntRange(1, 100), default=3, show_default=True, help="Runs of each variation.")
@click.option("--parts", default=None, metavar="NAME,NAME", help="Only these parts.  [default: all that are on]")
@click.option(
    "--pairs", type=click.IntRange(0, 1000), default=0, show_default=True,
    help="So many pairs of parts are switched off together, those of the largest contributions.",
)  # fmt: skip
@click.option("--corrupted", is_flag=True, help="Measure every run on a corrupted copy of the validation part too.")
@click.option(
    "--epochs", envvar="HPO_EPOCHS", type=click.IntRange(1, 10_000), default=None,
    help="Epochs of every run.  [default: as the configuration]",
)  # fmt: skip
@weights_option
@name_option
@click.option(
    "--out", type=UserPath(), required=True, metavar="FOLDER",
    help="Folder for table.md, table.csv, figure.svg, figure.png and results.json.",
)  # fmt: skip
@team_options
@click.pass_context
def ablate_command(ctx: click.Context, /, bundle: Path | str, **options: Any) -> None:
    """Switch off each part of BUNDLE's configuration in turn, train again, and tell what the part contributes.

    Every variation is trained under the same seeds as the whole, and compared with it seed by seed. It is a study of
    its own, for any number of workers; the same command goes on where an earlier one stopped. Pairs are a second study,
    as they follow from the first.
    """
    from hpo.bundle.remote import local_bundle
    from hpo.device import resolve_device
    from hpo.experiments.outputs import check_outputs
    from hpo.search.plan import check_path

    staff = LocalWorkerOptions.taken_from(options)
    check_outputs(options["out"])
    check_path(options["data"])
    with local_bundle(bundle, cache_folder(staff.home)) as folder:
        task = _task(folder, staff.home, options)
    resolve_device(staff.device)
    with connected(staff.storage, staff.home, initialise=True, start_timeout=STARTING) as db:
        found, study = _ablated(ctx, db, task, staff)
    _tell(ctx, found, task, study)
    ctx.exit(0 if all(line.contribution for line in (*found[0].parts, *found[0].pairs)) else 1)


@dataclass(frozen=True)
class _Task:
    """What is ablated, and on what."""

    data: Path
    dataset: Dataset
    manifest: Manifest
    config: TrialConfig
    parts: Sequence[AblationPart]
    seeds: int
    name: str | None


def _task(folder: Path, home: Path, options: dict[str, Any]) -> _Task:
    """What the options ask for; DataError for other data, BundleError for weights that are gone, else UsageError."""
    from hpo.bundle.bundle import read_bundle
    from hpo.bundle.own_data import reopen
    from hpo.delivery.retrain import with_weights
    from hpo.experiments.ablation_parts import chosen_parts
    from hpo.experiments.benchmark import check_basis
    from hpo.models.baselines import is_baseline

    manifest = with_weights(read_bundle(folder).manifest, options["weights"], cache=cache_folder(home))
    if manifest.stage in ("ensemble", "soup"):
        raise UsageError(
            f"{folder} joins several trials, but one configuration is ablated; export one of them: "
            f"`{hint('export-best', study=manifest.study, trial=manifest.trial, out='best/')}`"
        )
    if is_baseline(manifest.config.backbone):
        raise UsageError(f"{folder} is a baseline ({manifest.config.backbone}), which has no part to switch off")
    config = manifest.config.replace(epochs=options["epochs"] or manifest.config.epochs)
    names = [name.strip() for name in (options["parts"] or "").split(",") if name.strip()]
    parts = chosen_parts(config, names)
    with counting("decoding images") as progress:
        dataset = reopen(manifest, options["data"], cache_folder(home), progress)
    check_basis(str(folder), manifest, dataset, options["data"])
    return _Task(options["data"], dataset, manifest, config, parts, options["seeds"], options["name"])


@dataclass(frozen=True)
class _Stage:
    """A study that was trained to its end, and what it has of each variation."""

    study: optuna.Study
    runs: list[VariationResult]


def _ablated(
    ctx: click.Context, db: Database, task: _Task, staff: LocalWorkerOptions
) -> tuple[list[AblationOutcome], str]:
    """The outcome of the parts and, where they are asked for, of the pairs; and the name of the first study."""
    from hpo.experiments.ablation import METRIC, outcome
    from hpo.experiments.ablation_parts import pair_variations, single_variations

    stages = [_trained(ctx, db, task, single_variations(task.config, task.parts), staff)]
    single = outcome(task.manifest.metric, task.seeds, stages[0].runs)
    joint = pair_variations(task.config, task.parts, single.contributions, ctx.params["pairs"])
    if joint:
        stages.append(_trained(ctx, db, task, joint, staff, "-pairs"))
    found = [outcome(task.manifest.metric, task.seeds, [run for stage in stages for run in stage.runs])]
    if ctx.params["corrupted"]:
        runs = [run for stage in stages for run in _examined(stage, task, staff)]
        found.append(outcome(METRIC, task.seeds, runs))
    return found, stages[0].study.study_name


def _trained(
    ctx: click.Context,
    db: Database,
    task: _Task,
    variations: Sequence[Variation],
    staff: LocalWorkerOptions,
    suffix: str = "",
) -> _Stage:
    """Have the variations trained."""
    from hpo.experiments.ablation import seen
    from hpo.experiments.ablation_parts import roster

    origin = task.manifest.data
    plan = trial_list_plan(
        task.data, task.name and f"{task.name}{suffix}", roster(f"ablation{suffix}", variations, task.seeds),
        metric=task.manifest.metric, split=origin.options, max_unreadable=origin.max_unreadable,
    )  # fmt: skip
    plan, study = create_or_open_trial_list(db, plan, staff.home, command_line(ctx))
    train_trial_list(ctx, db, plan, study, staff)
    return _Stage(study, seen(study, variations, task.seeds))


def _examined(stage: _Stage, task: _Task, staff: LocalWorkerOptions) -> list[VariationResult]:
    """The stage's runs with their accuracy on the corrupted copy, measured here."""
    from hpo.device import resolve_device, use_threads
    from hpo.experiments.ablation import CorruptionEvaluator
    from hpo.experiments.benchmark import Benchmark
    from storage import open_store, read_spec

    use_threads(staff.threads)
    origin, cache = task.manifest.data, cache_folder(staff.home)
    bench = Benchmark(task.data, origin.options, origin.max_unreadable, cache, resolve_device(staff.device), test=False)
    store = open_store(staff.artifacts, read_spec(stage.study).id)
    with counting("variations on the corrupted copy") as progress:
        return CorruptionEvaluator(stage.study, store, bench, cache).seen(stage.runs, task.seeds, progress)


def _tell(ctx: click.Context, found: list[AblationOutcome], task: _Task, study: str) -> None:
    """Print the tables, and write them with the figure where --out says."""
    from rich.console import Console

    from hpo.experiments.ablation_table import files, print_outcomes
    from hpo.experiments.outputs import write_outputs
    from hpo.experiments.provenance import described, provenance_of

    data = described(task.data, task.dataset)
    about = provenance_of(command_line(ctx), seed=task.manifest.data.seed, study=study, data=data)
    print_outcomes(Console(width=None if sys.stdout.isatty() else WIDTH), found, about)
    out = ctx.params["out"]
    write_outputs(out, files(found, public_config(task.config.to_dict()), about))
    click.echo(f"\n{out}: table.md, table.csv, figure.svg, figure.png, results.json")
