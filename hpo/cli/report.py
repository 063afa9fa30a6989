"""`hpo report`: a study or a bundle as one HTML page."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpo.cli.connect import artifacts_folder, cache_folder, connected_study
from hpo.cli.delivery import batch_size_option
from hpo.cli.options import (
    UserPath,
    artifacts_option,
    debug_option,
    device_option,
    storage_options,
    threads_option,
)
from hpo.cli.progress import counting
from hpo.errors import UsageError

if TYPE_CHECKING:
    from hpo.report.model_data import ReportOptions


SUFFIXES = (".html", ".htm")


@click.command("report")
@click.argument("subject", metavar="STUDY|BUNDLE")
@click.option(
    "--data", envvar="HPO_DATA", type=UserPath(), default=None,
    help="Labelled images: adds examples, mistakes, saliency and robustness.",
)  # fmt: skip
@click.option(
    "--out", type=UserPath(), default=None, metavar="FILE",
    help="The .html file to write; replaced.  [default: report-NAME.html]",
)  # fmt: skip
@batch_size_option
@device_option
@threads_option
@storage_options
@artifacts_option
@debug_option
def report_command(
    subject: str, data: Path | None, out: Path | None, batch_size: int, device: str, threads: int | None,
    storage: str | None, home: Path, artifacts: Path | str | None,
) -> None:  # fmt: skip
    """Write what is known of STUDY or BUNDLE as one HTML page that opens offline and prints.

    A folder with a config.json, or an s3:// URL, is a bundle; everything else is the name of a study. The locked test
    part is not opened.
    """
    out = out or Path(f"report-{_as_file_name(subject)}.html")
    check_out(out)
    from hpo.device import use_threads
    from hpo.files import atomic_text_file
    from hpo.report.model_data import ReportOptions
    from storage import format_size

    use_threads(threads)
    options = ReportOptions(cache_folder(home), device, batch_size, counting)
    if is_bundle(subject):
        text = _report_bundle(subject if subject.startswith("s3://") else Path(subject).expanduser(), data, options)
    else:
        text = _report_study(subject, data, options, (storage, home, artifacts))
    with atomic_text_file(out, errors="replace") as file:
        file.write(text)
    click.echo(f"{out}: {format_size(len(text.encode(errors='replace')))}, opens in any browser")


def check_out(out: Path, option: str = "--out") -> None:
    """Raise UsageError unless a page can be written to `out`, which `option` names; called before the work."""
    if out.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{option} is {out}, but must end in .html")
    if out.is_dir():
        raise UsageError(f"{option} is {out}, but that is a folder; name a file in it")
    if not out.parent.is_dir():
        raise UsageError(f"{option} is {out}, but there is no folder {out.parent}; make it first")
    refuse_closed_folder(out, option)


def refuse_closed_folder(out: Path, option: str) -> None:
    """Raise UsageError where no file can be made in the folder of `out`, which `option` names."""
    folder = out.resolve().parent
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"{option} is {out}, but nothing may be written in {folder}: name another folder")


def is_bundle(subject: Path | str) -> bool:
    """Return whether `subject` names a bundle; other texts are names of studies."""
    return str(subject).startswith("s3://") or (Path(subject).expanduser() / "config.json").is_file()


def _as_file_name(subject: str) -> str:
    """Return the last part of a path, or a name, without characters that are special in file systems or shells."""
    last = subject.rstrip("/").rpartition("/")[2]
    return re.sub(r"[^\w.-]+", "-", last).strip("-.")[:100] or "study"


def _report_bundle(bundle: Path | str, data: Path | None, options: ReportOptions) -> str:
    from hpo.bundle.remote import local_bundle
    from hpo.report.build import report_bundle

    with local_bundle(bundle, options.cache) as folder:
        return report_bundle(folder, data, options, place=str(bundle))


def _report_study(
    study: str, data: Path | None, options: ReportOptions, places: tuple[str | None, Path, Path | str | None]
) -> str:  # fmt: skip
    from hpo.errors import HpoError
    from storage import StudyError

    storage, home, artifacts = places
    try:
        with connected_study(storage, home, study) as (db, found):
            from hpo.report.build import report_study
            from storage import open_store, read_spec

            store = open_store(artifacts_folder(artifacts, home), read_spec(found).id)
            return report_study(db, found, store, data, options)
    except StudyError as error:
        if not Path(study).is_dir():
            raise
        raise HpoError(f"{error}; and the folder {study} is no bundle: it has no config.json") from None
