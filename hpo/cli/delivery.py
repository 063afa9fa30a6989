"""The commands from a bundle to a model in use: `hpo retrain`, `evaluate`, `predict`."""

from __future__ import annotations

import codecs
import os
import sys
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpo.cli.connect import cache_folder, connected
from hpo.cli.options import (
    Location,
    UserPath,
    debug_option,
    device_option,
    home_option,
    storage_options,
    threads_option,
    weights_option,
)
from hpo.cli.progress import Ticker, counting
from hpo.cli.sets_text import kind_options, set_options
from hpo.errors import UsageError
from hpo.strict_json import strict_json

if TYPE_CHECKING:
    from hpo.bundle.access_ledger import AccessLedger
    from hpo.bundle.bundle import Bundle
    from hpo.bundle.evaluate import Evaluation
    from hpo.bundle.model import Tta
    from hpo.cli.robustness_text import RobustnessResult
    from hpo.data import PartName, PathList
    from storage import Database


RECORD_SECONDS = 5.0
"""Seconds that the record of a test access waits for a database that does not answer; HOME and the bundle have it."""

bundle_argument = click.argument("bundle", type=Location())

data_option = click.option(
    "--data", envvar="HPO_DATA", required=True, type=UserPath(), help="Labelled images.",
)  # fmt: skip

out_option = click.option(
    "--out", required=True, type=Location(), metavar="FOLDER|URL",
    help="Folder or s3://bucket/prefix to write the bundle to.",
)  # fmt: skip

force_option = click.option("--force", is_flag=True, help="Replace the bundle that is there.")

batch_size_option = click.option(
    "--batch-size", type=click.IntRange(1), default=256, show_default=True, help="Images in memory at a time.",
)  # fmt: skip

tta_option = click.option(
    "--tta", type=click.Choice(["none", "mirror", "flips", "dihedral"]), default="none", show_default=True,
    help="Average over views of an image: it and its mirror image, its 4 flips, or all 8 symmetries of a square.",
)  # fmt: skip


map_option = click.option(
    "--map", "renamed", multiple=True, metavar="THEIRS=OURS",
    help="A class of other data by the model's name for it; `THEIRS=` leaves its images out.  Repeatable.",
)  # fmt: skip


@click.command("retrain")
@bundle_argument
@data_option
@out_option
@weights_option
@click.option("--other-data", is_flag=True, help="Allow other data than the bundle was made with.")
@click.option("--other-weights", is_flag=True, help="Allow another weights file than the trial started from.")
@click.option(
    "--corrupted", is_flag=True,
    help="Measure the test part under corruptions too, in the same access, as `evaluate --corrupted` does.",
)  # fmt: skip
@force_option
@device_option
@threads_option
@storage_options
@debug_option
def retrain_command(
    bundle: Path | str, data: Path, out: Path | str, weights: Path | None, other_data: bool, other_weights: bool,
    corrupted: bool, force: bool, device: str, threads: int | None, storage: str | None, home: Path,
) -> None:  # fmt: skip
    """Train the configuration of BUNDLE on train + val, prove it on the locked test part, and write a new bundle.

    It starts from the original weights and trains for the number of epochs that was best in the trial. What is known
    about the new model stands in its README.md.
    """
    from hpo.bundle.bundle import read_bundle
    from hpo.bundle.remote import local_bundle, upload_bundle
    from hpo.cli.delivery_text import epoch_line, retrain_lines
    from hpo.cli.robustness_text import CorruptedTest
    from hpo.delivery.retrain import RetrainCallbacks, RetrainOptions, retrain
    from hpo.device import resolve_device, use_threads

    use_threads(threads)
    options = RetrainOptions(
        cache=cache_folder(home), device=resolve_device(device), weights=weights, other_data=other_data,
        other_weights=other_weights, force=force, ledger=ledger_of(storage, home),
    )  # fmt: skip
    under_corruptions = CorruptedTest(options.cache, wanted=corrupted)
    callbacks = RetrainCallbacks(
        decoding=lambda: counting("decoding images"),
        on_epoch=lambda result, epochs: click.echo(epoch_line(result, epochs), err=True),
        on_test=under_corruptions.measure,
    )
    with local_bundle(bundle, options.cache) as source, upload_bundle(out, options.cache, force=force) as target:
        before = read_bundle(source)
        result = retrain(before, data, target, options, callbacks)
    for line in retrain_lines(out, before, result):
        click.echo(line)
    under_corruptions.print(out)


@click.command("evaluate")
@bundle_argument
@data_option
@click.option(
    "--split", type=click.Choice(["train", "val", "test"]), default=None,
    help="Part to evaluate on, where the data has parts.  [default: test]",
)  # fmt: skip
@tta_option
@click.option(
    "--corrupted", is_flag=True,
    help="Measure under corruptions too: those that a search may see, and those that none sees; kept in BUNDLE.",
)  # fmt: skip
@click.option(
    "--baseline", type=Location(), default=None, metavar="BUNDLE",
    help="Whose errors those under corruptions are relative to (mCE).  [default: the errors on the images as they are]",
)  # fmt: skip
@map_option
@click.option(
    "--sets", "level", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.95, show_default=True,
    help="Measure sets of classes made to hold the true one with this probability.",
)  # fmt: skip
@kind_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON, and nothing else, on stdout.")
@batch_size_option
@device_option
@threads_option
@storage_options
@debug_option
def evaluate_command(
    bundle: Path | str, data: Path, split: PartName | None, tta: Tta, corrupted: bool, baseline: Path | str | None,
    renamed: tuple[str, ...], level: float, as_json: bool, batch_size: int, device: str, threads: int | None,
    storage: str | None, home: Path, **kind: Any,
) -> None:  # fmt: skip
    """Measure BUNDLE on labelled images: accuracy with its 95 % interval, scores per class, confusion, calibration.

    With --tta also by the mean over several views of each image, and what that gains. Data that the bundle was trained
    on is split again as it was then. Other data, as of another laboratory, is taken by its own parts or, having none,
    whole; it may lack classes, and images that took part in making the model are left out. An access to a test part is
    recorded in the bundle, in HOME and, with --storage, in the database.
    """
    from hpo.bundle.evaluate import evaluate_on, select
    from hpo.bundle.model import load
    from hpo.bundle.remote import local_bundle
    from hpo.cli.delivery_text import selection_lines
    from hpo.cli.robustness_text import measure_robustness, read_baseline
    from hpo.data.relabelling import read_renaming
    from hpo.device import use_threads

    if baseline is not None and not corrupted:
        raise UsageError("--baseline is for errors under corruptions: give --corrupted too")
    use_threads(threads)
    cache, ledger, names = cache_folder(home), ledger_of(storage, home), read_renaming(renamed)
    sets = set_options(level, kind)
    with local_bundle(bundle, cache) as folder, counting("images") as progress:
        model = load(folder, device)
        selection = select(model.bundle, data, cache=cache, split=split, renamed=names, progress=progress)
        reference = read_baseline(baseline, selection, data, cache) if baseline is not None else None
        found = evaluate_on(
            model, selection, tta=tta, batch_size=batch_size, ledger=ledger, set_options=sets, progress=progress
        )
        robustness = measure_robustness(model, found, cache, reference, progress) if corrupted else None
    for line in [*selection_lines(data, found.selection, split), *(robustness.lines(bundle) if robustness else ())]:
        click.echo(line, err=True)
    if as_json:
        values = {**found.to_dict(), "corrupted": robustness.to_dict() if robustness else None}
        click.echo(strict_json(values, indent=2))
    else:
        _print_evaluation(bundle, data, model.bundle, found, robustness)


@click.command("predict")
@bundle_argument
@click.argument("images", nargs=-1, required=True, type=UserPath(), metavar="IMAGES...")
@click.option(
    "--out", default="-", show_default=True, metavar="FILE", help="A .json or .csv file; - is JSON on stdout.",
)  # fmt: skip
@click.option(
    "--accuracy",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=None,
    help="Abstain where the model is not sure enough for this accuracy, which its validation images must prove (95 %).",
)
@click.option(
    "--sets", "level", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=None,
    help="Give each image the set of classes that holds the true one with this probability.",
)  # fmt: skip
@kind_options
@tta_option
@batch_size_option
@device_option
@threads_option
@home_option
@debug_option
def predict_command(
    bundle: Path | str, images: tuple[Path, ...], out: str, accuracy: float | None, level: float | None, tta: Tta,
    batch_size: int, device: str, threads: int | None, home: Path, **kind: Any,
) -> None:  # fmt: skip
    """Classify IMAGES with BUNDLE: images, folders with all below them, zips, .npz files, CSVs that name images.

    A CSV names them in its column `path`, relative to its folder; - reads paths from stdin, one a line. There is a row
    for each file, in their order; one that cannot be read has an `error` there. The exit code is 0 if at least one
    image was classified. Probabilities are calibrated; with --accuracy the model abstains where it is not sure enough,
    with --sets each row has the set of classes among which the true one is.
    """
    from hpo.bundle.model import load
    from hpo.bundle.output import STDOUT, check_output
    from hpo.bundle.predict import PredictOptions, predict
    from hpo.bundle.remote import local_bundle
    from hpo.cli.delivery_text import abstention_line, predicted_line
    from hpo.cli.sets_text import shown_sets
    from hpo.device import use_threads

    check_output(out)
    wanted = set_options(level, kind)
    sources = image_sources(images)
    use_threads(threads)
    with local_bundle(bundle, cache_folder(home)) as folder:
        model = load(folder, device)
    model.check_tta(tta)
    options = PredictOptions(tta)
    if accuracy is not None:
        abstention = model.abstention(accuracy)
        options = replace(options, threshold=abstention.threshold)
        click.echo(abstention_line(abstention, model.bundle.manifest, tta), err=True)
    if wanted is not None:
        options = replace(options, sets=shown_sets(model, wanted, tta))
    with Ticker(beside_results=out == STDOUT) as ticker:
        counts = predict(
            model, sources, out, options=options, batch_size=batch_size, progress=ticker.count,
            on_unreadable=lambda image: ticker.remark(f"unreadable: {image.name}: {image.reason}"),
        )  # fmt: skip
    click.echo(predicted_line(counts), err=True)


def image_sources(images: tuple[Path, ...]) -> list[Path | PathList]:
    """Return the paths, with the lines of stdin in place of `-`; UsageError where it is named twice."""
    from hpo.data import PathList

    if images.count(Path("-")) > 1:
        raise UsageError("- is named twice, but stdin can be read only once")
    lines = (line.removeprefix(codecs.BOM_UTF8).rstrip(b"\r\n") for line in sys.stdin.buffer)
    listed = PathList(os.fsdecode(line) for line in lines if line)
    return [listed if path == Path("-") else path for path in images]


def _print_evaluation(
    place: Path | str, data: Path, bundle: Bundle, found: Evaluation, robustness: RobustnessResult | None
) -> None:
    from rich.console import Console

    from hpo.cli.delivery_text import tta_line
    from hpo.cli.robustness_text import print_robustness
    from hpo.cli.sets_text import print_sets
    from hpo.evaluation.metrics_table import print_reliability, print_report

    whole = "the other images" if found.selection.overlap.left_out else "all"
    images = f"{f'the {found.selection.name} part' if found.selection.name else whole} of {data}"
    measured = found.measurement
    print_report(Console(), found.report, f"{place} on {images}")
    if measured.temperature is None:
        print_reliability(Console(), measured.before)
        click.echo("not calibrated: the bundle knows no temperature")
    else:
        print_reliability(Console(), measured.before, measured.after, measured.temperature)
    if measured.averaged:
        click.echo(f"\n{tta_line(measured.averaged, measured.report)}")
    if robustness is not None:
        print_robustness(Console(), robustness)
    if found.sets is not None:
        print_sets(Console(), bundle, found.sets.sets, found.sets.found)
    elif found.selection.name == "test" or not found.selection.own:
        click.echo(f"\nno prediction sets: {found.without_sets}")
    if found.accesses is not None:
        click.echo(f"\n{found.accesses.line}")


def copied_accesses(bundle: Path, ledger: AccessLedger) -> list[str]:
    """Copy the records of the test part of a new bundle into it; return the line with their number, or nothing."""
    from hpo.bundle.bundle import read_bundle

    written = read_bundle(bundle)
    if written.known is None or not written.known.test_digest:
        return []
    counts = ledger.carry(bundle, {"test": written.known.test_digest, "data": written.manifest.data.fingerprint})
    return [counts.line] if counts.count else []


def ledger_of(storage: str | None, home: Path, db: Database | None = None) -> AccessLedger:
    """Return the ledger of test accesses: a file in HOME and the open database `db` or that which --storage names."""
    from hpo.bundle.access_ledger import AccessLedger
    from hpo.delivery.database_accesses import DatabaseAccesses

    if db is not None:
        return AccessLedger(home, DatabaseAccesses(lambda: nullcontext(db), warn=partial(click.echo, err=True)))
    # The embedded database lies in HOME, as the file does, so it is not started for this.
    if storage is None:
        return AccessLedger(home)
    connect = partial(connected, storage, home, start_timeout=RECORD_SECONDS)
    return AccessLedger(home, DatabaseAccesses(connect, warn=partial(click.echo, err=True)))
