"""`hpo ablate`: what each part of a bundle's configuration is worth, by training without it under several seeds."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpo.cli.connect import STARTING, cache_folder, connected
from hpo.cli.delivery import bundle_argument, data_option
from hpo.cli.options import UserPath, command_line, weights_option
from hpo.cli.progress import counting
from hpo.cli.trial_list import name_option, table_console, train_plan, write_figures
from hpo.cli.worker_pool import LocalWorkerOptions, worker_pool_options
from hpo.private_paths import public_config

if TYPE_CHECKING:
    import optuna

    from hpo.experiments.ablation import Ablation, AblationOutcome
    from hpo.experiments.variation_results import CorruptionEvaluator


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
@worker_pool_options
@click.pass_context
def ablate_command(ctx: click.Context, /, bundle: Path | str, **options: Any) -> None:
    """Switch off each part of BUNDLE's configuration in turn, train again, and tell what the part contributes.

    Every variation is trained under the same seeds as the whole, and compared with it seed by seed. It is a study of
    its own, for any number of workers; the same command goes on where an earlier one stopped. Pairs are a second study,
    as they follow from the first.
    """
    from hpo.bundle.remote import local_bundle
    from hpo.data.opening import check_path
    from hpo.device import resolve_device
    from hpo.experiments.outputs import check_outputs

    local = LocalWorkerOptions.from_options(options)
    check_outputs(options["out"])
    check_path(options["data"])
    with local_bundle(bundle, cache_folder(local.home)) as folder:
        ablation = _open(folder, local.home, options)
    resolve_device(local.device)
    with connected(local.storage, local.home, initialise=True, start_timeout=STARTING) as db:
        from hpo.experiments.ablation import run_ablation

        outcomes, study = run_ablation(
            ablation, partial(train_plan, ctx, db, local), pairs=options["pairs"],
            evaluator=partial(_evaluator, ablation, local) if options["corrupted"] else None, counting=counting,
        )  # fmt: skip
    _print_and_write(ctx, outcomes, ablation, study)
    ctx.exit(0 if all(line.contribution for line in (*outcomes[0].parts, *outcomes[0].pairs)) else 1)


def _open(folder: Path, home: Path, options: dict[str, Any]) -> Ablation:
    """Return the ablation that the options ask for.

    Raises DataError for other data, BundleError if weights are missing, UsageError for parts that are unknown or off.
    """
    from hpo.bundle.own_data import reopen_same
    from hpo.experiments.ablation import Ablation, ablated_config
    from hpo.experiments.ablation_parts import chosen_parts

    data, cache = options["data"], cache_folder(home)
    manifest, config = ablated_config(folder, weights=options["weights"], epochs=options["epochs"], cache=cache)
    names = [name.strip() for name in (options["parts"] or "").split(",") if name.strip()]
    parts = chosen_parts(config, names)
    way_out = "give the data that it was made with"
    with counting("decoding images") as progress:
        dataset = reopen_same(manifest, data, cache, progress, maker=str(folder), way_out=way_out)
    return Ablation(data, dataset, manifest, config, parts, options["seeds"], options["name"])


def _evaluator(ablation: Ablation, local: LocalWorkerOptions, study: optuna.Study) -> CorruptionEvaluator:
    """Return the evaluator, on this machine, of the trials of `study`."""
    from hpo.device import resolve_device, use_threads
    from hpo.experiments.benchmark import Benchmark
    from hpo.experiments.variation_results import CorruptionEvaluator
    from storage import open_store, read_spec

    use_threads(local.threads)
    origin, cache = ablation.manifest.data, cache_folder(local.home)
    benchmark = Benchmark(ablation.data, origin.options, cache, resolve_device(local.device), changes=origin.changes)
    return CorruptionEvaluator(study, open_store(local.artifacts, read_spec(study).id), benchmark, cache)


def _print_and_write(ctx: click.Context, outcomes: list[AblationOutcome], ablation: Ablation, study: str) -> None:
    """Print the tables, and write them with the figure to the folder of --out."""
    from hpo.experiments.ablation_table import ablation_files, print_outcomes
    from hpo.experiments.provenance import provenance_of

    about = provenance_of(
        command_line(ctx), ablation.data, ablation.dataset, seed=ablation.manifest.data.seed, study=study
    )
    print_outcomes(table_console(), outcomes, about)
    write_figures(ctx.params["out"], ablation_files(outcomes, public_config(ablation.config.to_dict()), about))
