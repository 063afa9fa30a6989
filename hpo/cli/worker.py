"""`hpo worker`: one process that takes trials of a study until its budget ends. Start as many as there are devices."""

from __future__ import annotations

from pathlib import Path

import click

from hpo.cli.connect import STARTING, artifacts_folder, cache_folder, connected, log_to_stderr
from hpo.cli.options import (
    artifacts_option,
    data_argument,
    debug_option,
    device_option,
    storage_options,
    study_option,
    threads_option,
    weights_option,
)

keep_option = click.option(
    "--keep", envvar="HPO_KEEP", type=click.IntRange(1), default=5, show_default=True,
    help="How many of the study's best trials keep their checkpoints.",
)  # fmt: skip


@click.command("worker")
@data_argument
@study_option
@weights_option
@device_option
@threads_option
@keep_option
@click.option("--lifeline", is_flag=True, hidden=True, help="Stop when standard input ends; `hpo run` holds it open.")
@storage_options
@artifacts_option
@debug_option
def worker_command(
    data: Path, study: str, weights: Path | None, device: str, threads: int | None, keep: int, lifeline: bool,
    storage: str | None, home: Path, artifacts: Path | None,
) -> None:  # fmt: skip
    """Take trials of STUDY until its budget ends; a first Ctrl-C or SIGTERM puts the running trial back.

    DATA holds the images that the study was made with; it may lie elsewhere on another host.
    """
    log_to_stderr()
    from hpo.search.device import resolve_device, use_threads
    from hpo.search.plan import check_path
    from hpo.search.worker import WorkerOptions, stop_with_parent, work

    check_path(data)
    use_threads(threads)
    options = WorkerOptions(
        data=data, study=study, cache=cache_folder(home), artifacts=artifacts_folder(artifacts, home),
        device=resolve_device(device), weights=weights, keep=keep,
    )  # fmt: skip
    if lifeline:
        stop_with_parent()
    with connected(storage, home, patience=STARTING) as db:
        finished = work(db, options)
    click.echo(f"{finished} trials finished by this worker", err=True)
