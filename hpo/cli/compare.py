"""`hpo compare`: presets, bundles and trials in one table, on the same images and the same machine."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpo.cli.connect import STARTING, cache_folder, connected
from hpo.cli.delivery import data_option
from hpo.cli.options import METRICS, UserPath, command_line, together, weights_option
from hpo.cli.progress import counting
from hpo.cli.teamwork import LocalWorkerOptions, team_options
from hpo.cli.trial_list import WIDTH, create_or_open_trial_list, name_option, train_trial_list, trial_list_plan
from hpo.errors import HpoError, UsageError

if TYPE_CHECKING:
    from hpo.experiments.benchmark import Benchmark
    from hpo.experiments.compared_model import ComparedModel
    from hpo.experiments.comparison import ComparisonRow
    from hpo.experiments.model_refs import ModelRef
    from hpo.experiments.preset_configs import PresetConfig
    from storage import Database


out_option = click.option(
    "--out", type=UserPath(), default=None, metavar="FOLDER",
    help="Folder for table.md, table.csv, figure.svg, figure.png and results.json.",
)  # fmt: skip

training_options = together(
    click.option(
        "--epochs", envvar="HPO_EPOCHS", type=click.IntRange(1, 10_000), default=None,
        help="The same number of epochs for all that is trained.  [default: what each configuration has]",
    ),
    click.option("--seeds", type=click.IntRange(1, 100), default=1, show_default=True, help="Runs of each preset."),
    click.option(
        "--backbone", envvar="HPO_BACKBONE", default=None, metavar="NAME",
        help="A timm model in place of the backbone of every preset that starts from pretrained weights.",
    ),
    weights_option,
    click.option(
        "--set", "fixed", multiple=True, metavar="KEY=VALUE",
        help="For every preset that can take it; `NAME:key=value,key=value` is for one.  Repeatable.",
    ),
)  # fmt: skip

splitting_options = together(
    click.option(
        "--metric", envvar="HPO_METRIC", type=click.Choice(METRICS), default="accuracy", show_default=True,
        help="What chooses a run's best epoch on the validation part.",
    ),
    click.option(
        "--seed", type=click.IntRange(0, 2**32 - 1), default=None,
        help="Seed of the split, from which those of the runs follow.  [default: that of the bundles, else 0]",
    ),
    click.option(
        "--val-fraction", type=click.FloatRange(0.01, 0.5), default=None,
        help="Share for validation, where DATA brings no val part.  [default: as the bundles, else 0.1]",
    ),
    click.option(
        "--test-fraction", type=click.FloatRange(0, 0.5), default=None,
        help="Share locked away for the test, where DATA brings none.  [default: as the bundles, else 0.1]",
    ),
    click.option(
        "--max-unreadable", type=click.FloatRange(0, 1), default=None,
        help="Share of images that may be unreadable.  [default: as the bundles, else 0.05]",
    ),
)  # fmt: skip


@click.command("compare")
@click.argument("contestants", nargs=-1, required=True)
@data_option
@training_options
@splitting_options
@name_option
@click.option("--test", is_flag=True, help="Open the locked test part for each contestant.  [default: it stays locked]")
@click.option("--no-test", is_flag=True, hidden=True, help="What is done anyway; accepted until the next version.")
@out_option
@team_options
@click.pass_context
def compare_command(ctx: click.Context, /, contestants: tuple[str, ...], **options: Any) -> None:
    """Train what needs training under one budget, measure everything on one machine, print one table.

    A contestant is a preset or space (NAME, FILE.yaml, NAME:key=value,key=value), a bundle (folder or URL) or a
    complete trial (STUDY#NUMBER). Presets are trained by their first known-good point, in a study of their own, by any
    number of workers; the same command goes on where an earlier one stopped.
    """
    from hpo.bundle.access_ledger import AccessLedger
    from hpo.delivery.database_accesses import DatabaseAccesses
    from hpo.device import resolve_device
    from hpo.experiments.model_refs import read_model_refs
    from hpo.experiments.outputs import check_outputs
    from hpo.search.plan import check_path

    _check_test(options)
    staff = LocalWorkerOptions.taken_from(
        options
    ).isolating()  # else the peak memory of a run would be that of all before it
    check_outputs(options["out"])
    check_path(options["data"])
    named = read_model_refs(contestants)
    preset_configs = _entrants(named, options)
    device = resolve_device(staff.device)
    with connected(staff.storage, staff.home, initialise=True, start_timeout=STARTING) as db, ExitStack() as stack:
        found = _existing(stack, db, named, staff)
        ledger = AccessLedger(staff.home, DatabaseAccesses(lambda: nullcontext(db), warn=partial(click.echo, err=True)))
        bench = _bench(found, device, staff.home, {**options, "ledger": ledger})
        study, trained = _trained(ctx, db, preset_configs, bench, staff, options)
        everything = {**found, **trained}
        rows, missing = measured([everything[contestant.label] for contestant in named], bench, staff.threads)
    _tell(ctx, rows, missing, bench, study)
    ctx.exit(1 if missing else 0)


def _check_test(options: dict[str, Any]) -> None:
    """UsageError for contradicting options; a line for one that does nothing any more."""
    if not options["no_test"]:
        return
    if options["test"]:
        raise UsageError("--test opens the test part and --no-test leaves it locked; give one of them, or none")
    click.echo("hpo: --no-test is not needed any more: the test part stays locked without --test", err=True)


def _entrants(named: Sequence[ModelRef], options: dict[str, Any]) -> list[PresetConfig]:
    """The presets as they will be trained; what one of them cannot take of the options is told."""
    from hpo.experiments.model_refs import PresetRef
    from hpo.experiments.preset_configs import Overrides, preset_configs

    wishes = Overrides(*(options.pop(key) for key in ("backbone", "weights", "fixed", "epochs")))
    made = preset_configs([contestant for contestant in named if isinstance(contestant, PresetRef)], wishes)
    for entrant in made:
        for text, reason in entrant.unused:
            click.echo(f"--set {text} does not apply: {reason}", err=True)
    return made


def _existing(
    stack: ExitStack, db: Database, named: Sequence[ModelRef], staff: LocalWorkerOptions
) -> dict[str, ComparedModel]:
    """The bundles and trials among the contestants, by label."""
    from hpo.bundle.remote import local_bundle
    from hpo.experiments.compared_model import BundleCache, from_bundle, from_trial
    from hpo.experiments.model_refs import BundleRef, TrialRef

    shelf = BundleCache(db, staff.artifacts, staff.home)
    found: dict[str, ComparedModel] = {}
    for contestant in named:
        if isinstance(contestant, BundleRef):
            folder = stack.enter_context(local_bundle(contestant.place, cache_folder(staff.home)))
            found[contestant.label] = from_bundle(db, contestant.label, folder)
        elif isinstance(contestant, TrialRef):
            found[contestant.label] = from_trial(shelf, contestant)
    return found


def _bench(found: dict[str, ComparedModel], device: str, home: Path, options: dict[str, Any]) -> Benchmark:
    """Where everything will be measured; a bundle of other data or another split is refused here."""
    from hpo.bundle.bundle import read_bundle
    from hpo.experiments.benchmark import Benchmark, common_split, common_unreadable

    manifests = {label: read_bundle(candidate.folders[0]).manifest for label, candidate in found.items()}
    given = {key: options[key] for key in ("seed", "val_fraction", "test_fraction")}
    origins = [manifest.data for manifest in manifests.values()]
    bench = Benchmark(
        data=options["data"], split=common_split(origins, **given),
        max_unreadable=common_unreadable(origins, options["max_unreadable"]), cache=cache_folder(home),
        device=device, test=options["test"], ledger=options["ledger"],
    )  # fmt: skip
    with counting("decoding images") as progress:
        for label, manifest in manifests.items():
            replace(bench, progress=progress).check(label, manifest)
    return bench


def _trained(
    ctx: click.Context,
    db: Database,
    preset_configs: list[PresetConfig],
    bench: Benchmark,
    staff: LocalWorkerOptions,
    options: dict[str, Any],
) -> tuple[str | None, dict[str, ComparedModel]]:
    """The name of the study that trained the presets, and what came of them by label; nothing without presets."""
    from hpo.experiments.compared_model import BundleCache, trained
    from hpo.experiments.preset_configs import roster

    if not preset_configs:
        return None, {}
    seeds = options["seeds"]
    plan = trial_list_plan(
        bench.data, options["name"], roster(preset_configs, seeds), metric=options["metric"], split=bench.split,
        max_unreadable=bench.max_unreadable,
    )  # fmt: skip
    plan, study = create_or_open_trial_list(db, plan, staff.home, command_line(ctx))
    train_trial_list(ctx, db, plan, study, staff)
    shelf = BundleCache(db, staff.artifacts, staff.home)
    return plan.study, {candidate.label: candidate for candidate in trained(shelf, study, preset_configs, seeds)}


def measured(
    candidates: Sequence[ComparedModel], bench: Benchmark, threads: int | None
) -> tuple[list[ComparisonRow], list[ComparedModel]]:
    """Those that left a model and could be measured, best on validation first, and the others, each with the reason.

    HpoError where none could.
    """
    from hpo.device import use_threads
    from hpo.experiments.comparison import measured_row

    use_threads(threads)
    rows: list[ComparisonRow] = []
    missing: list[ComparedModel] = []
    for candidate in candidates:
        if not candidate.folders:
            click.echo(f"hpo: {candidate.label} gave no model: {'; '.join(candidate.notes)}", err=True)
            missing.append(candidate)
            continue
        click.echo(f"measuring {candidate.label}", err=True)
        try:
            with counting(f"images of {candidate.label}") as progress:
                rows.append(measured_row(candidate, replace(bench, progress=progress)))
        except (HpoError, OSError) as error:
            # The others have had their look at the test part: their figures must not be lost with this one.
            click.echo(f"hpo: {candidate.label} cannot be measured: {error}", err=True)
            missing.append(replace(candidate, notes=(*candidate.notes, str(error))))
    if not rows:
        raise HpoError("no contestant could be measured; mend the cause, or compare them under another --name")
    return sorted(rows, key=lambda row: -row.validation.value if row.validation else 1.0), missing


def _tell(
    ctx: click.Context, rows: list[ComparisonRow], missing: list[ComparedModel], bench: Benchmark, study: str | None
) -> None:
    """Print the table, and write it with the figure where --out says."""
    from rich.console import Console

    from hpo.experiments.comparison_figure import files
    from hpo.experiments.comparison_table import print_comparison
    from hpo.experiments.outputs import write_outputs
    from hpo.experiments.provenance import described, provenance_of

    command, data = command_line(ctx), described(bench.data, bench.dataset(rows[0].image_size))
    about = provenance_of(command, seed=bench.split.seed, study=study, data=data, device=bench.device)
    print_comparison(Console(width=None if sys.stdout.isatty() else WIDTH), rows, about)
    out = ctx.params["out"]
    if out is not None:
        write_outputs(out, files(rows, missing, about))
        click.echo(f"\n{out}: table.md, table.csv, figure.svg, figure.png, results.json")
