"""`hpo data`: the data doctor on a data set: a page, a table to edit, and a summary in the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpo.cli.connect import cache_folder
from hpo.cli.options import (
    UserPath,
    data_argument,
    debug_option,
    device_option,
    group_by_option,
    home_option,
    threads_option,
    weights_option,
)
from hpo.cli.progress import counting
from hpo.cli.report import check_out, refuse_closed_folder
from hpo.errors import UsageError

if TYPE_CHECKING:
    from hpo.inspection.inspect_data import DataInspection, StepProgress
    from hpo.report.data_evidence import DataEvidence

STEPS = {
    "images": "decoding images", "copies": "looking for copies", "embeddings": "embedding images",
    "judging": "judging the embeddings",
}  # fmt: skip
"""Step of an inspection -> what is shown while it goes on."""


@click.command("data")
@data_argument
@click.option(
    "--out", type=UserPath(), default=None, metavar="FILE",
    help="Write the findings as a table (.csv), for people to edit and for `hpo run --findings FILE`.",
)  # fmt: skip
@click.option("--force", is_flag=True, help="Replace the table of --out that is there, with all that was edited in it.")
@click.option(
    "--report", type=UserPath(), default=Path("data.html"), show_default=True, metavar="FILE",
    help="The page to write; replaced.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON; the page is written too.")
@click.option(
    "--backbone", default=None, metavar="NAME", help="A timm model for the embeddings.  [default: a small one]"
)
@weights_option
@click.option(
    "--image-size", type=click.IntRange(16, 1024), default=96, show_default=True,
    help="Side of the images for the embeddings and the page, in pixels.",
)  # fmt: skip
@click.option(
    "--embeddings/--no-embeddings", default=True, show_default=True,
    help="Without: only what needs none, as copies, leaks and blank images; in seconds.",
)  # fmt: skip
@group_by_option
@device_option
@threads_option
@home_option
@debug_option
def data_command(
    data: Path, out: Path | None, force: bool, report: Path, as_json: bool, backbone: str | None,
    weights: Path | None, image_size: int, embeddings: bool, group_by: str | None,
    device: str, threads: int | None, home: Path,
) -> None:  # fmt: skip
    """Look for what may be wrong with DATA before anything is trained: junk, copies, labels, leaks, broken images.

    Nothing is changed: `--out` writes a table whose actions `hpo run --findings` applies, and `hpo run --clean` applies
    those that are sure. DATA is what `hpo run` takes.
    """
    check_out(report, "--report")
    from hpo.data.opening import require_path

    require_path(data)
    check_table(out, data, force=force)
    from hpo.cli.data_text import inspection_json, inspection_lines
    from hpo.device import resolve_device, use_threads
    from hpo.inspection.inspect_data import InspectionOptions, inspect_images
    from hpo.strict_json import strict_json

    use_threads(threads)
    options = InspectionOptions(
        image_size=image_size, backbone=backbone, weights=weights, embeddings=embeddings,
        device=resolve_device(device), group_by=group_by,
    )  # fmt: skip
    with steps() as progress:
        found = inspect_images(data, options, cache=cache_folder(home), progress=progress)
    write_results(found, out, report, home)
    if as_json:
        click.echo(strict_json(inspection_json(found, out, report, home), indent=2))
        return
    for line in inspection_lines(found, out, report, home):
        click.echo(line)


@contextmanager
def steps() -> Iterator[StepProgress]:
    """Give a callback `(step, done, total)` that shows one step after the other on stderr, with the time left."""
    with ExitStack() as shown:
        current: list[str] = []
        update: list[Callable[[int, int], None]] = []

        def progress(step: str, done: int, total: int) -> None:
            if current != [step]:
                shown.close()
                current[:] = [step]
                update[:] = [shown.enter_context(counting(STEPS.get(step, step)))]
            update[0](done, total)

        yield progress


def check_table(out: Path | None, data: Path, *, force: bool) -> None:
    """Raise UsageError unless a table can be written to `out`; called before the work.

    One that is there may hold what a person has edited: it is replaced only with `force`, and the data never.
    """
    if out is None:
        return
    if out.suffix.lower() != ".csv":
        raise UsageError(f"--out is {out}, but must end in .csv: it is a table of findings; --report names the page")
    if out.is_dir() or not out.parent.is_dir():
        raise UsageError(f"--out is {out}, but that is a folder or in none: name a file in a folder that is there")
    if out.exists() and out.samefile(data):
        raise UsageError(f"--out is {out}, but that is DATA itself: name another file")
    if out.exists() and not force:
        raise UsageError(f"--out is {out}, which is there and may hold what you edited: name another, or give --force")
    refuse_closed_folder(out, "--out")


def write_results(found: DataInspection, out: Path | None, report: Path, home: Path | None = None) -> None:
    """Write the table and the page; each appears whole or not at all."""
    from hpo.files import atomic_text_file
    from hpo.report.data_page import render_data_page

    if out is not None:
        found.findings.write_csv(out)
    text = render_data_page(evidence_of(found, str(out or ""), home))
    with atomic_text_file(report, errors="replace") as file:
        file.write(text)


def evidence_of(found: DataInspection, table: str, home: Path | None = None) -> DataEvidence:
    """Return the content of the page; `table` is the file of the findings, "" without one."""
    from hpo.inspection.next_commands import NextCommands
    from hpo.report.data_evidence import DataEvidence, label_facts, neighbours_of, outlier_facts, target_figures

    embeddings, outliers, labels = found.embeddings, found.outliers, found.labels
    return DataEvidence(
        data=found.data,
        findings=found.findings.rows,
        odd=found.odd,
        imbalance=found.imbalance,
        copies=found.copies,
        leaks=found.leaks,
        backbone=embeddings.origin if embeddings else "",
        neighbours=neighbours_of(embeddings) if embeddings else None,
        map=found.map,
        outlier_scores=outliers.scores.probability if outliers else None,
        outlier_threshold=outliers.threshold if outliers else None,
        outlier_facts=outlier_facts(outliers, found.data) if outliers else (),
        label_facts=label_facts(labels) if labels else (),
        target=target_figures(found.target) if found.target else None,
        skipped=found.skipped,
        seconds=found.seconds,
        table=table,
        commands=NextCommands.of(found, home),
    )
