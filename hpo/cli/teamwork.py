"""What `run`, `compare` and `ablate` share: workers of this machine at a study, watched until they end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpo.cli.connect import artifacts_folder, with_password
from hpo.cli.options import artifacts_option, debug_option, device_option, storage_options, threads_option, together
from hpo.cli.watching import forwarding, steady, watch
from hpo.cli.worker import WORKING, working_arguments, working_options
from hpo.search.local_workers import WorkerCommand

if TYPE_CHECKING:
    import optuna

    from hpo.search.local_workers import LocalWorkers
    from hpo.search.plan import Plan
    from hpo.search.status import StudyStatus
    from storage import Database


team_options = together(
    click.option(
        "--workers", envvar="HPO_WORKERS", type=click.IntRange(1, 64), default=None,
        help="Worker processes on this machine.  [default: the number of GPUs, else 1]",
    ),
    device_option,
    threads_option,
    working_options,
    storage_options,
    artifacts_option,
    debug_option,
)  # fmt: skip
"""Workers, devices and places of studies and checkpoints, as `LocalWorkerOptions.taken_from` reads them."""


@dataclass(frozen=True)
class LocalWorkerOptions:
    """The workers that a command starts, and where they find the study and leave its checkpoints."""

    workers: int | None
    device: str
    threads: int | None
    storage: str | None
    home: Path
    artifacts: Path | str
    working: Mapping[str, Any]
    debug: bool

    @classmethod
    def taken_from(cls, options: dict[str, Any]) -> LocalWorkerOptions:
        """The values of `team_options` and `--keep`, which are taken out of `options`."""
        working = {key: options.pop(key) for key in WORKING if key in options}
        workers, device, threads = (options.pop(key) for key in ("workers", "device", "threads"))
        storage, home, artifacts = (options.pop(key) for key in ("storage", "home", "artifacts"))
        debug = bool(click.get_current_context().meta.get("hpo.debug"))
        return cls(workers, device, threads, storage, home, artifacts_folder(artifacts, home), working, debug)

    def isolating(self) -> LocalWorkerOptions:
        """The same with each run in a process of its own, unless the options say otherwise."""
        chosen = self.working["isolate"]
        return replace(self, working={**self.working, "isolate": True if chosen is None else chosen})

    def environment(self) -> dict[str, str]:
        """What workers find in theirs. A URL may hold a password, so it is not among their arguments."""
        environment = {"HPO_HOME": str(self.home.resolve()), "HPO_ARTIFACTS": str(self.artifacts)}
        if self.storage is not None:
            environment["HPO_STORAGE"] = with_password(self.storage) or self.storage
        if self.debug:
            environment["HPO_DEBUG"] = "1"
        return environment


def start_workers(
    db: Database, study: optuna.Study, plan: Plan, staff: LocalWorkerOptions
) -> tuple[LocalWorkers, Callable[[], StudyStatus]]:
    """Start the workers, watch them until the last has ended; what became of them, and a look at the study.

    A study that was stopped goes on: who starts workers wants that.
    """
    from hpo.search.local_workers import LocalWorkers
    from hpo.search.status import StudyReader
    from storage import Control, get_control, read_spec, set_control

    if get_control(db, study) is Control.STOP:
        set_control(db, study, Control.RUN)
        click.echo(f"study {study.study_name} was stopped; it goes on", err=True)
    base = WorkerCommand(
        [str(plan.data.resolve()), "--study", study.study_name, *working_arguments(staff.working), *_weights(plan)],
        staff.environment(),
        staff.home / "logs" / read_spec(study).id / "worker.log",
    )
    look = steady(StudyReader(db, study))
    with (
        LocalWorkers(db, study, worker_commands(base, staff.workers, staff.device, staff.threads)) as team,
        forwarding(team),
    ):
        watch(team, look)
    return team, look


def _weights(plan: Plan) -> list[str]:
    path = plan.space.fixed.get("weights")
    return ["--weights", str(path)] if path else []


def worker_commands(base: WorkerCommand, workers: int | None, device: str, threads: int | None) -> list[WorkerCommand]:
    """One job a worker, each with a device, CPU threads and a log of its own: GPUs in turn, cores shared."""
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
