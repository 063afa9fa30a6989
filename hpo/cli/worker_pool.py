"""Start workers of this machine at a study and watch them until they end: for `run`, `compare` and `ablate`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpo.cli.connect import artifacts_folder, with_password
from hpo.cli.options import (
    artifacts_option,
    debug_option,
    device_option,
    storage_options,
    together,
    worker_threads_option,
)
from hpo.cli.watching import forwarding, keep_last_status, watch
from hpo.cli.worker import WORKING, working_arguments, working_options
from hpo.search.local_workers import WorkerCommand

if TYPE_CHECKING:
    import optuna

    from hpo.search.local_workers import LocalWorkers
    from hpo.search.plan import Plan
    from hpo.search.status import StudyStatus
    from storage import Database


worker_pool_options = together(
    click.option(
        "--workers", envvar="HPO_WORKERS", type=click.IntRange(1, 64), default=None,
        help="Worker processes on this machine.  [default: the number of GPUs, else 1]",
    ),
    device_option,
    worker_threads_option,
    working_options,
    storage_options,
    artifacts_option,
    debug_option,
)  # fmt: skip
"""Workers, devices and places of studies and checkpoints, as `LocalWorkerOptions.from_options` reads them."""


@dataclass(frozen=True)
class LocalWorkerOptions:
    """How many workers a command starts and on what, and where study and checkpoints are."""

    workers: int | None
    device: str
    threads: int | None
    storage: str | None
    home: Path
    artifacts: Path | str
    working: Mapping[str, Any]
    debug: bool

    @classmethod
    def from_options(cls, options: dict[str, Any]) -> LocalWorkerOptions:
        """Remove the values of `worker_pool_options` and `--keep` from `options` and return them."""
        working = {key: options.pop(key) for key in WORKING if key in options}
        workers, device, threads = (options.pop(key) for key in ("workers", "device", "threads"))
        storage, home, artifacts = (options.pop(key) for key in ("storage", "home", "artifacts"))
        debug = bool(click.get_current_context().meta.get("hpo.debug"))
        return cls(workers, device, threads, storage, home, artifacts_folder(artifacts, home), working, debug)

    def isolated(self) -> LocalWorkerOptions:
        """Return the options with each trial in a process of its own, unless they say otherwise."""
        chosen = self.working["isolate"]
        return replace(self, working={**self.working, "isolate": True if chosen is None else chosen})

    def environment(self) -> dict[str, str]:
        """Return the workers' environment: the URL is there, not among the arguments, as it may hold a password."""
        environment = {"HPO_HOME": str(self.home.resolve()), "HPO_ARTIFACTS": str(self.artifacts)}
        if self.storage is not None:
            environment["HPO_STORAGE"] = with_password(self.storage) or self.storage
        if self.debug:
            environment["HPO_DEBUG"] = "1"
        return environment


def run_workers(
    db: Database, study: optuna.Study, plan: Plan, options: LocalWorkerOptions
) -> tuple[LocalWorkers, Callable[[], StudyStatus]]:
    """Start the workers and watch them until the last has ended; return them, and a reader of the study's status.

    A study that was stopped goes on: to start workers is to ask for that.
    """
    from hpo.search.local_workers import LocalWorkers
    from hpo.search.status import StudyReader
    from storage import Control, get_control, read_spec, set_control

    if get_control(db, study) is Control.STOP:
        set_control(db, study, Control.RUN)
        click.echo(f"study {study.study_name} was stopped; it goes on", err=True)
    base = WorkerCommand(
        [str(plan.data.resolve()), "--study", study.study_name, *working_arguments(options.working), *_weights(plan)],
        options.environment(),
        options.home / "logs" / read_spec(study).id / "worker.log",
    )
    read_status = keep_last_status(StudyReader(db, study))
    with (
        LocalWorkers(db, study, worker_commands(base, options.workers, options.device, options.threads)) as started,
        forwarding(started),
    ):
        watch(started, read_status)
    return started, read_status


def _weights(plan: Plan) -> list[str]:
    path = plan.space.fixed.get("weights")
    return ["--weights", str(path)] if path else []


def worker_commands(base: WorkerCommand, workers: int | None, device: str, threads: int | None) -> list[WorkerCommand]:
    """Return a command for each worker, with a device, CPU threads and a log of its own: GPUs in turn, cores shared."""
    from hpo.device import cores, device_count, resolve_device

    count = workers or device_count(device)
    share = threads or max(1, cores() // count)
    environment = {**base.environment, "OMP_NUM_THREADS": str(share)}
    return [
        WorkerCommand(
            [*base.arguments, "--device", resolve_device(device, number), "--threads", str(share)],
            environment,
            base.log.with_name(f"worker-{number}.log"),
        )
        for number in range(count)
    ]
