"""`hpo export-best`: the best trial of a study as a bundle, finished where that helps by more than noise."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from hpo.cli.connect import artifacts_folder, cache_folder, connected
from hpo.cli.delivery import copied_accesses, force_option, ledger_of, out_option
from hpo.cli.options import (
    Duration,
    UserPath,
    artifacts_option,
    debug_option,
    device_option,
    storage_options,
    study_option,
    threads_option,
)
from hpo.cli.progress import StatusLine, counting
from hpo.errors import UsageError
from hpo.hints import hint
from hpo.strict_json import strict_json

if TYPE_CHECKING:
    from rich.console import Console

    from hpo.bundle.manifest import Manifest
    from hpo.delivery.finished_export import FinishCallbacks, FinishedExport, FinishOptions
    from hpo.delivery.finishing import Finishing, TriedStep

MODES = ("all", "single", "none")


@click.command("export-best")
@study_option
@out_option
@click.option("--trial", type=click.IntRange(0), default=None, help="This complete trial, not the best one.")
@click.option(
    "--prefer", type=click.Choice(["value", "cheap"]), default="value", show_default=True,
    help="cheap: of the trials that cannot be told from the best, the one whose model is the cheapest in use, with "
    "--finish single unless --finish is given.",
)  # fmt: skip
@click.option(
    "--finish", type=click.Choice(MODES), default="all", show_default=True, is_flag=False, flag_value="all",
    help="Try what may make the model better without training: only steps that leave a prediction at one forward pass "
    "(single), also ensembles and views (all), or nothing (none).",
)  # fmt: skip
@click.option("--no-finish", is_flag=True, help="The same as --finish none.")
@click.option(
    "--data", envvar="HPO_DATA", type=UserPath(), default=None,
    help="The images of the study, for --finish.  [default: where a worker on this machine found them]",
)  # fmt: skip
@click.option(
    "--finish-time", type=Duration(), default=None, metavar="TIME",
    help="Time that --finish may take, as 90s, 10m.  [default: a tenth of what the trials took, 2 to 30 minutes]",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON, and nothing else, on stdout.")
@force_option
@storage_options
@artifacts_option
@device_option
@threads_option
@debug_option
def export_best_command(
    study: str, out: Path | str, trial: int | None, prefer: str, finish: str, no_finish: bool, data: Path | None,
    finish_time: timedelta | None, as_json: bool, force: bool, storage: str | None, home: Path,
    artifacts: Path | str | None, device: str, threads: int | None,
) -> None:  # fmt: skip
    """Write the best trial of a study, with its weights of the best epoch, as a bundle.

    What may make it better without training is tried: a mean of the weights of several trials (soup), BatchNorm
    statistics, a point towards the original weights (WiSE-FT), the last layer anew, an ensemble, several views. Each is
    chosen by one half of the validation images and measured on the other; what gains more than noise is taken.
    A configuration that was trained under several seeds is judged by all its values; of its trials the one with the
    highest value is written.
    Probabilities are calibrated: one temperature, fitted to the predictions on the validation part.
    """
    from hpo.bundle.remote import upload_bundle
    from hpo.cli.confirm_text import ExportChoice
    from hpo.delivery.finished_export import export_finished
    from hpo.device import use_threads
    from storage import open_store, open_study, read_spec

    use_threads(threads)
    cache, which = cache_folder(home), _which(trial, prefer)
    mode = "none" if no_finish else "single" if which == "cheap" and not _is_named("finish") else finish
    options = _finish_options(mode, data, finish_time, device, cache)
    with (
        connected(storage, home) as db,
        upload_bundle(out, cache, force=force) as folder,
        StatusLine() as status,
    ):
        callbacks = _callbacks(status)
        searched = open_study(db, study)
        store = open_store(artifacts_folder(artifacts, home), read_spec(searched).id)
        found = export_finished(db, study, store, folder, options, callbacks, trial=which, force=force)
        altered = _altered_lines(folder)
        choice = ExportChoice.of(searched, found.manifest.trial, cheap=which == "cheap")
        accesses = copied_accesses(folder, ledger_of(storage, home, db))
    if as_json:
        click.echo(strict_json({**export_json(out, found), **choice.to_dict()}, indent=2))
    else:
        _print_export(out, found, options, [*altered, *choice.lines, *accesses])


def _altered_lines(bundle: Path) -> list[str]:
    from hpo.bundle.json_files import read_json
    from hpo.bundle.stored_metrics import METRICS
    from hpo.cli.delivery_text import altered_lines

    return altered_lines(read_json(bundle / METRICS))


def _which(trial: int | None, prefer: str) -> int | Literal["cheap"] | None:
    if trial is not None and prefer == "cheap":
        raise UsageError(f"--prefer cheap chooses the trial, and --trial names {trial}; give one of them")
    return "cheap" if prefer == "cheap" else trial


def _finish_options(
    mode: str, data: Path | None, time: timedelta | None, device: str, cache: Path
) -> FinishOptions:  # fmt: skip
    from hpo.delivery.finished_export import FinishOptions
    from hpo.device import limit_threads, resolve_device

    if mode == "none":
        return FinishOptions(cache, mode)
    limit_threads()
    seconds = time.total_seconds() if time is not None else None
    return FinishOptions(
        cache, mode, data, data_named=_is_named("data"), device=resolve_device(device), seconds=seconds
    )


def _callbacks(status: StatusLine) -> FinishCallbacks:
    from hpo.delivery.finished_export import FinishCallbacks
    from hpo.report.wording import span

    return FinishCallbacks(
        decoding=lambda: counting("images"),
        on_progress=lambda doing, left: status.show(f"finishing: {doing}; {span(left)} left"),
    )


def _is_named(parameter: str) -> bool:
    """Whether a parameter stands on the command line. One from the environment is for other commands too."""
    return click.get_current_context().get_parameter_source(parameter) is click.core.ParameterSource.COMMANDLINE


def export_json(out: Path | str, found: FinishedExport) -> dict[str, Any]:
    """Return JSON-ready values."""
    manifest = found.manifest
    return {
        "out": str(out),
        "study": manifest.study,
        "trial": manifest.trial,
        "stage": manifest.stage,
        "epoch": manifest.best_epoch,
        "backbone": manifest.config.backbone,
        "validation": found.report.to_dict(),
        "finishing": found.finishing.to_dict(),
    }


def _print_export(out: Path | str, found: FinishedExport, options: FinishOptions, choice: Sequence[str]) -> None:
    from rich.console import Console

    from hpo.cli.delivery_text import (
        augmented_note,
        calibration_line,
        changes_lines,
        composition,
        fold_lines,
        robustness_lines,
    )
    from hpo.evaluation.metrics_table import accuracy_line

    manifest, finishing = found.manifest, found.finishing
    joined = f", {composition(manifest)}" if manifest.stage != "exported" else ""
    what = "a frozen probe of" if manifest.probe else f"epoch {manifest.best_epoch},"
    click.echo(f"{out}: trial {manifest.trial} of study {manifest.study}, {what} {manifest.config.backbone}{joined}")
    accuracy = accuracy_line(found.report.accuracy, found.report.interval, found.report.n)
    chosen = ", which have chosen what was finished" if finishing.taken else ""
    click.echo(f"validation accuracy {accuracy}{augmented_note(manifest)}{chosen}")
    click.echo(calibration_line(manifest))
    lines = [*choice, *changes_lines(manifest), *fold_lines(manifest), *robustness_lines(manifest), *manifest.changes]
    for line in lines:
        click.echo(line)
    if options.mode != "none":
        print_finishing(Console(), finishing)
    for line in cost_lines(manifest, finishing):
        click.echo(line)


def cost_lines(manifest: Manifest, found: Finishing) -> list[str]:
    """Return what a finished model costs, and what cannot be done with it; nothing where it is as any other."""
    lines = []
    if found.taken and (forwards := found.taken[-1].forwards) > 1:
        lines.append(
            f"each prediction takes {forwards} forward passes; with --finish single it takes one, without their gain"
        )
    if manifest.stage in ("soup", "ensemble"):
        single = hint("export-best", study=manifest.study, trial=manifest.trial, out="one/")
        lines.append(f"`hpo retrain` trains one trial, not several as one: `{single}` writes the best of them alone")
    return lines


def print_finishing(console: Console, found: Finishing) -> None:
    """Print what was tried, on which images, and what was taken; one line where nothing was tried."""
    from rich.text import Text

    if found.reason:
        console.print(Text(f"not finished: {found.reason}"), soft_wrap=True)
        return
    for line in finishing_lines(found):
        console.print(Text(line), soft_wrap=True)
    console.print(_table(found))


def finishing_lines(found: Finishing) -> list[str]:
    """Return what was taken, and how it was measured."""
    from hpo.report.wording import span

    taken = ", ".join(one.name for one in found.taken) or "nothing of what was tried gains more than noise"
    altered = f" and {found.altered:,} altered ones, weight {found.weight:g}" if found.altered else ""
    alike = f" ({found.units:,} independent)" if found.units < found.images else ""
    return [
        f"finished: {taken} ({span(found.seconds)} of {span(found.allowed)})",
        f"each step is chosen by one half of {found.images:,} validation images{alike}{altered}, and measured on the "
        f"other; taken above {found.required:.2f} standard errors (95 % over all steps)",
    ]


def _table(found: Finishing) -> Any:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("step", no_wrap=True)
    table.add_column("choice")
    table.add_column("value" if found.weight else found.metric.replace("_", " "), justify="right", no_wrap=True)
    table.add_column("gain, points", justify="right", no_wrap=True)
    table.add_column("passes", justify="right", no_wrap=True)
    table.add_column("s", justify="right", no_wrap=True)
    table.add_column("")
    for one in found.tried:
        table.add_row(*_cells(one))
    return table


def _cells(one: TriedStep) -> tuple[str, ...]:
    if one.after is None or one.gain is None or one.error is None:
        return (one.name, "", "", "", "", f"{one.seconds:.0f}" if one.seconds >= 1 else "", one.why)
    gain = f"{100 * one.gain:+.2f} ± {100 * one.error:.2f}"
    verdict = "taken" if one.taken else one.why
    return (one.name, one.choice, f"{one.after:.4f}", gain, str(one.forwards), f"{one.seconds:.0f}", verdict)
