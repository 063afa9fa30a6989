"""The command from a study to one bundle of several trials: `hpo ensemble`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpo.cli.connect import artifacts_folder, cache_folder, connected
from hpo.cli.delivery import copied_accesses, force_option, ledger_of, out_option
from hpo.cli.options import UserPath, artifacts_option, debug_option, device_option, storage_options, threads_option
from hpo.cli.progress import counting
from hpo.errors import UsageError

if TYPE_CHECKING:
    from hpo.delivery.ensemble import JointModel
    from hpo.delivery.ensemble_candidates import EnsembleCandidates
    from storage import Database


@click.command("ensemble")
@click.argument("name", metavar="[STUDY]", required=False)
@click.option("--study", envvar="HPO_STUDY", default=None, help="Name of the study, where it is no argument.")
@click.option("--top", type=click.IntRange(2), default=10, show_default=True, help="Best trials to choose from.")
@out_option
@click.option("--soup", is_flag=True, help="Average their weights into one model, not their probabilities.")
@click.option(
    "--data", envvar="HPO_DATA", type=UserPath(), default=None,
    help="The labelled images of the study; --soup needs them.",
)  # fmt: skip
@force_option
@storage_options
@artifacts_option
@device_option
@threads_option
@debug_option
def ensemble_command(
    name: str | None, study: str | None, top: int, out: Path | str, soup: bool, data: Path | None, force: bool,
    storage: str | None, home: Path,
    artifacts: Path | str | None, device: str, threads: int | None,
) -> None:  # fmt: skip
    """Join the best trials of a study into one bundle, which evaluate and predict take like any other.

    Members are chosen greedily, with replacement, by the validation predictions that the search has stored, and weigh
    as often as they were chosen. Only trials whose checkpoints are kept can be members: see `hpo run --keep`.
    """
    from hpo.bundle.bundle import check_out
    from hpo.bundle.remote import upload_bundle
    from hpo.cli.delivery_text import calibration_line, joined_lines
    from hpo.delivery.ensemble import ensemble
    from hpo.device import use_threads

    study = _one_study(name, study)
    _check_data(data, soup=soup)
    use_threads(threads)
    with connected(storage, home) as db, upload_bundle(out, cache_folder(home), force=force) as folder:
        check_out(folder, force=force)
        found = _candidates(db, study, artifacts_folder(artifacts, home), top)
        if soup and data is not None:
            joined = _soup(found, data, folder, cache_folder(home), device, force=force)
        else:
            _print_left_out(found)
            joined = ensemble(found, folder, force=force)
        accesses = copied_accesses(folder, ledger_of(storage, home, db))
    for line in [*joined_lines(out, joined), calibration_line(joined.manifest), *accesses]:
        click.echo(line)


def _one_study(argument: str | None, option: str | None) -> str:
    """Return the study that the argument names, before HPO_STUDY and hpo.toml, or the option."""
    study = argument or option
    if not study:
        raise UsageError("no study is named; write hpo ensemble STUDY, or --study STUDY")
    return study


def _check_data(data: Path | None, *, soup: bool) -> None:
    """Raise UsageError for a soup without data, and for a --data on the command line that nothing needs."""
    # A HPO_DATA from the environment is for other commands too, so it is no error here.
    written = click.get_current_context().get_parameter_source("data") is click.core.ParameterSource.COMMANDLINE
    if soup and data is None:
        raise UsageError("--soup needs --data, the images of the study: every mean of weights is measured on them")
    if written and not soup:
        raise UsageError("--data is for --soup alone: an ensemble is chosen by predictions that the search has stored")


def _candidates(db: Database, study: str, artifacts: Path | str, top: int) -> EnsembleCandidates:
    from hpo.delivery.ensemble_candidates import ensemble_candidates
    from storage import open_store, open_study, read_spec

    opened = open_study(db, study)
    return ensemble_candidates(opened, open_store(artifacts, read_spec(opened).id), top)


def _soup(found: EnsembleCandidates, data: Path, folder: Path, cache: Path, device: str, *, force: bool) -> JointModel:
    from hpo.delivery.soup import open_images, soup, soupable
    from hpo.device import limit_threads, resolve_device

    limit_threads()
    kept = soupable(found)
    _print_left_out(kept)
    with counting("decoding images") as progress:
        dataset = open_images(kept, data, cache, progress)
    return soup(
        kept, dataset, folder, device=resolve_device(device), cache=cache, force=force,
        on_line=partial(click.echo, err=True),
    )  # fmt: skip


def _print_left_out(found: EnsembleCandidates) -> None:
    for line in found.left_out:
        click.echo(f"left out: {line}", err=True)
