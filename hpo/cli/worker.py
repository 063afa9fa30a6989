"""`hpo worker`: one process that trains trials of a study until its budget ends."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from hpo.cli.connect import STARTING, artifacts_folder, cache_folder, connected, verbosity, with_password
from hpo.cli.options import (
    Duration,
    UserPath,
    artifacts_option,
    data_argument,
    debug_option,
    device_option,
    keep_option,
    quota_option,
    storage_options,
    study_option,
    together,
    weights_option,
    worker_threads_option,
)
from hpo.logs import log_to_stderr
from hpo.search.signals import stop_with_parent

working_options = together(
    quota_option,
    click.option(
        "--lease", envvar="HPO_LEASE", type=Duration(), default="2m", show_default=True, metavar="TIME",
        help="A worker that renews no lease for so long loses its trial to another.",
    ),
    click.option(
        "--db-grace", envvar="HPO_DB_GRACE", type=Duration(), default="10m", show_default=True, metavar="TIME",
        help="How long the database may be away before a worker leaves.",
    ),
    click.option(
        "--preempt-file", envvar="HPO_PREEMPT_FILE", type=UserPath(), default=None, metavar="FILE",
        help="Stop as on SIGTERM when this file appears: the notice of a spot machine.",
    ),
    click.option(
        "--isolate/--no-isolate", envvar="HPO_ISOLATE", default=None,
        help="Each trial in a process of its own.  [default: on a GPU]",
    ),
)  # fmt: skip

WORKING = ("keep", "checkpoint_quota", "lease", "db_grace", "preempt_file", "isolate")
"""The names of `working_options`, and of `keep_option`.

`compare` and `ablate` have no `--keep`: what they train is measured afterwards, the worst too.
"""


@click.command("worker")
@data_argument
@study_option
@weights_option
@device_option
@worker_threads_option
@keep_option
@working_options
@click.option("--lifeline", is_flag=True, hidden=True, help="Stop when standard input ends; `hpo run` holds it open.")
@storage_options
@artifacts_option
@debug_option
def worker_command(
    data: Path, study: str, weights: Path | None, device: str, threads: int | None, lifeline: bool,
    storage: str | None, home: Path, artifacts: Path | str | None, **working: Any,
) -> None:  # fmt: skip
    """Take trials of STUDY until its budget ends; a first Ctrl-C or SIGTERM puts the running trial back.

    DATA holds the images that the study was made with; it may lie elsewhere on another host.
    """
    log_to_stderr(verbosity())
    from hpo.data.opening import check_path
    from hpo.device import on_gpu, resolve_device, use_threads
    from hpo.search.isolation import IsolatedWorkerOptions, work_isolated
    from hpo.search.worker import WorkerOptions, work

    check_path(data)
    isolate = working.pop("isolate")
    isolated = on_gpu(device) if isolate is None else isolate
    options = dict(
        data=data, study=study, cache=cache_folder(home), artifacts=artifacts_folder(artifacts, home),
        weights=weights, **_in_seconds(working),
    )  # fmt: skip
    if not isolated:
        device = resolve_device(device)
    if lifeline:
        stop_with_parent()
    if isolated:
        # The device is resolved in each trial's process: looking for the freest GPU opens all of them.
        finished = work_isolated(
            IsolatedWorkerOptions(
                **options, device=device, storage=with_password(storage), home=home, threads=threads,
                verbosity=verbosity(),
            )
        )  # fmt: skip
    else:
        use_threads(threads)
        with connected(storage, home, start_timeout=STARTING) as db:
            finished = work(db, WorkerOptions(**options, device=device)).finished
    click.echo(f"{finished} trial{'' if finished == 1 else 's'} finished by this worker", err=True)


def working_arguments(working: Mapping[str, Any]) -> list[str]:
    """Return the options named in WORKING as arguments of `hpo worker`."""
    flags = [] if working["isolate"] is None else ["--isolate" if working["isolate"] else "--no-isolate"]
    given = {key: value for key, value in working.items() if value is not None and key != "isolate"}
    return flags + [text for key, value in given.items() for text in (f"--{key.replace('_', '-')}", _text(value))]


def _text(value: object) -> str:
    return f"{value.total_seconds()}s" if isinstance(value, timedelta) else str(value)


def _in_seconds(working: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options with times in seconds, under the names of `WorkerOptions`."""
    plain = {key: value.total_seconds() if isinstance(value, timedelta) else value for key, value in working.items()}
    return {"quota": plain.pop("checkpoint_quota"), **plain}
