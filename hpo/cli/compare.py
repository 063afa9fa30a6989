"""`hpo compare`: presets, bundles and trials in one table, on the same images and the same machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpo.cli.connect import STARTING, cache_folder, connected
from hpo.cli.delivery import data_option, map_option
from hpo.cli.options import METRICS, UserPath, command_line, together, weights_option
from hpo.cli.progress import counting
from hpo.cli.trial_list import name_option, table_console, train_plan, write_figures
from hpo.cli.worker_pool import LocalWorkerOptions, worker_pool_options
from hpo.errors import UsageError

if TYPE_CHECKING:
    import optuna

    from hpo.experiments.benchmark import Benchmark
    from hpo.experiments.compared_model import ComparedModel
    from hpo.experiments.comparison import ComparisonRow
    from hpo.experiments.model_refs import ModelRef
    from hpo.experiments.other_data import OtherData
    from hpo.experiments.preset_configs import PresetConfig
    from storage import Database


out_option = click.option(
    "--out", type=UserPath(), default=None, metavar="FOLDER",
    help="Folder for table.md, table.csv, figure.svg, results.json and, by corruption, corruptions.csv and .svg.",
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
    click.option(
        "--group-by", default=None, metavar="REGEX|COLUMN",
        help="Images of one group stay in one part, as for `hpo run`.  [default: as the bundles, else not]",
    ),
)  # fmt: skip


@click.command("compare")
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@data_option
@training_options
@splitting_options
@name_option
@click.option(
    "--baseline", default=None, metavar="MODEL",
    help="Whose errors under corruptions the others' are relative to (mCE).  [default: the first MODEL]",
)  # fmt: skip
@click.option(
    "--other", type=UserPath(), default=None, metavar="DATA",
    help="Images of another laboratory, on which every model is measured too.",
)  # fmt: skip
@map_option
@click.option("--test", is_flag=True, help="Open the locked test part for each model.  [default: it stays locked]")
@click.option("--no-test", is_flag=True, hidden=True, help="Has no effect any more; accepted until the next version.")
@out_option
@worker_pool_options
@click.pass_context
def compare_command(ctx: click.Context, /, models: tuple[str, ...], **options: Any) -> None:
    """Train what needs training under one budget, measure everything on one machine, print one table.

    A MODEL is a preset or space (NAME, FILE.yaml, NAME:key=value,key=value), a bundle (folder or URL) or a complete
    trial (STUDY#NUMBER). Presets are trained by their first known-good point, in a study of their own, by any number
    of workers; the same command goes on where an earlier one stopped. Every model is measured on the validation part
    as it is, under corruptions that a search may see, and under others that none sees.
    """
    from hpo.data.opening import check_path
    from hpo.device import resolve_device, use_threads
    from hpo.experiments.model_refs import read_model_refs
    from hpo.experiments.outputs import check_outputs

    _check_test(options)
    # Without a process for each trial, the peak memory of a run would include that of all trials before it.
    local = LocalWorkerOptions.from_options(options).isolated()
    check_outputs(options["out"])
    check_path(options["data"])
    refs = read_model_refs(models)
    baseline = _baseline(refs, options["baseline"])
    other = _other_data(options["other"], options["renamed"])
    configs = _preset_configs(refs, options)
    device = resolve_device(local.device)
    with connected(local.storage, local.home, initialise=True, start_timeout=STARTING) as db, ExitStack() as stack:
        from hpo.experiments.compared_model import BundleCache, existing_models, trained_presets
        from hpo.experiments.comparison import measure_models, with_relative_errors

        bundles = BundleCache(db, local.artifacts, local.home)
        known = existing_models(refs, bundles, cache_folder(local.home), stack)
        benchmark = replace(_open_benchmark(db, known, device, local.home, options), other=other)
        _check_other(benchmark, known)
        study = _train_presets(ctx, db, configs, benchmark, local) if configs else None
        if study is not None:
            known |= trained_presets(study, configs, options["seeds"], bundles)
        use_threads(local.threads)
        report = partial(click.echo, err=True)
        rows, missing = measure_models([known[ref.label] for ref in refs], benchmark, counting, report)
        rows = with_relative_errors(rows, baseline)
    _print_and_write(ctx, rows, missing, benchmark, study.study_name if study is not None else None)
    ctx.exit(1 if missing else 0)


def _check_test(options: dict[str, Any]) -> None:
    """Raise UsageError for contradicting options; print a line for one that has no effect any more."""
    if not options["no_test"]:
        return
    if options["test"]:
        raise UsageError("--test opens the test part and --no-test leaves it locked; give one of them, or none")
    click.echo("hpo: --no-test is not needed any more: the test part stays locked without --test", err=True)


def _baseline(refs: Sequence[ModelRef], given: str | None) -> str:
    """Return the label of the model that errors are relative to; UsageError for one that is not compared."""
    labels = [ref.label for ref in refs]
    if given is None:
        return labels[0]
    for label in (given, Path(given).name):  # the label of a bundle is the name of its folder
        if label in labels:
            return label
    raise UsageError(f"--baseline is {given!r}, but must be one of the compared models: {', '.join(labels)}")


def _other_data(path: Path | None, renamed: tuple[str, ...]) -> OtherData | None:
    """Return the images of another laboratory; UsageError for --map without them."""
    from hpo.data.relabelling import read_renaming
    from hpo.experiments.other_data import OtherData

    names = read_renaming(renamed)
    if path is None:
        if names:
            raise UsageError("--map names classes of other data: give these by --other")
        return None
    return OtherData(path, names)


def _check_other(benchmark: Benchmark, known: Mapping[str, ComparedModel]) -> None:
    """Raise DataError, before anything is trained, where the other images have classes that the models do not know."""
    from hpo.bundle.bundle import read_bundle
    from hpo.data.opening import open_source

    if benchmark.other is None:
        return
    bundles = [model.folders[0] for model in known.values() if model.folders]
    classes = read_bundle(bundles[0]).manifest.classes if bundles else open_source(benchmark.data).listing().classes
    benchmark.other.check(classes)


def _preset_configs(refs: Sequence[ModelRef], options: dict[str, Any]) -> list[PresetConfig]:
    """Return the configurations of the presets; report the values of --set that one of them cannot take."""
    from hpo.experiments.model_refs import PresetRef
    from hpo.experiments.preset_configs import Overrides, preset_configs

    overrides = Overrides(*(options.pop(key) for key in ("backbone", "weights", "fixed", "epochs")))
    configs = preset_configs([ref for ref in refs if isinstance(ref, PresetRef)], overrides)
    for config in configs:
        for text, reason in config.unused:
            click.echo(f"--set {text} does not apply: {reason}", err=True)
    return configs


def _open_benchmark(
    db: Database, known: Mapping[str, ComparedModel], device: str, home: Path, options: Mapping[str, Any]
) -> Benchmark:
    """Return the benchmark on the data; raise DataError for a bundle of other data or another split."""
    from hpo.bundle.access_ledger import AccessLedger
    from hpo.bundle.bundle import read_bundle
    from hpo.delivery.database_accesses import DatabaseAccesses
    from hpo.experiments.benchmark import Benchmark, common_changes, common_split

    manifests = {label: read_bundle(model.folders[0]).manifest for label, model in known.items()}
    given = {key: options[key] for key in ("seed", "val_fraction", "test_fraction", "max_unreadable", "group_by")}
    origins = [manifest.data for manifest in manifests.values()]
    accesses = DatabaseAccesses(lambda: nullcontext(db), warn=partial(click.echo, err=True))
    benchmark = Benchmark(
        data=options["data"], split=common_split(origins, **given), cache=cache_folder(home),
        device=device, changes=common_changes(origins), test=options["test"], ledger=AccessLedger(home, accesses),
    )  # fmt: skip
    with counting("decoding images") as progress:
        for label, manifest in manifests.items():
            replace(benchmark, progress=progress).check(label, manifest)
    return benchmark


def _train_presets(
    ctx: click.Context, db: Database, configs: Sequence[PresetConfig], benchmark: Benchmark, local: LocalWorkerOptions
) -> optuna.Study:
    """Train the presets; return the study that has them."""
    from hpo.experiments.preset_configs import comparison_trials
    from hpo.experiments.trial_list_study import plan_trial_list

    plan = plan_trial_list(
        benchmark.data, ctx.params["name"], comparison_trials(configs, ctx.params["seeds"]),
        metric=ctx.params["metric"], split=benchmark.split, changes=benchmark.changes,
    )  # fmt: skip
    return train_plan(ctx, db, local, plan)


def _print_and_write(
    ctx: click.Context, rows: list[ComparisonRow], missing: list[ComparedModel], benchmark: Benchmark, study: str | None
) -> None:
    """Print the table, and write it with the figure to the folder of --out."""
    from hpo.experiments.comparison_figure import comparison_files
    from hpo.experiments.comparison_table import print_comparison
    from hpo.experiments.provenance import provenance_of

    dataset = benchmark.dataset(rows[0].image_size)
    about = provenance_of(
        command_line(ctx), benchmark.data, dataset, seed=benchmark.split.seed, study=study, device=benchmark.device
    )
    print_comparison(table_console(), rows, about)
    if ctx.params["out"] is not None:
        write_figures(ctx.params["out"], comparison_files(rows, missing, about))
