"""One trial per process, so that all that it took of the device and of this machine's memory returns with its end.

The processes are forked from a server that has torch and timm imported and no device opened: a start costs a fraction
of a second. A trial that is killed, by a crash or for want of memory, takes its process with it, not the worker.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from hpo.device import resolve_device, use_threads
from hpo.errors import HpoError
from hpo.logs import log_to_stderr
from hpo.search.signals import STOP_REQUEST, StopSignal
from hpo.search.worker import CONNECT_TIMEOUT, WorkerOptions, WorkResult, work
from search_spaces import SpaceError
from storage import Database, RetryPolicy, StorageError, Worker, expire_leases, open_database, open_study, quiet_optuna

log = logging.getLogger(__name__)

EARLY_DEATHS = 3
"""Number of processes in a row without a trial that ends the worker: then no trial is to blame."""


@dataclass(frozen=True, kw_only=True)
class IsolatedWorkerOptions(WorkerOptions):
    """Options of a worker that trains each trial in a process of its own."""

    storage: str | None
    """URL of the database, with its password: it is handed over through a pipe, not among arguments."""
    home: Path
    threads: int | None
    """CPU threads of each process."""
    verbosity: int
    """Level of the log."""


@dataclass(frozen=True)
class _Fault:
    """An error that the user has to mend, or of a database that was away too long, reported by the process."""

    message: str


def work_isolated(options: IsolatedWorkerOptions) -> int:
    """Like `work`, each trial in a process of its own; return the number of finished trials."""
    finished = early = 0
    with StopSignal(options.preempt_file).installed() as stop:
        while stop.received is None:
            result = _run_process(options, stop)
            if result is None:
                early += 1
                if early == EARLY_DEATHS:
                    raise HpoError(f"{EARLY_DEATHS} processes in a row died before they had a trial; the log says more")
                continue
            early = 0
            options = replace(options, artifacts_checked=True)
            finished += result.finished
            if result.over:
                break
    return finished


def _run_process(options: IsolatedWorkerOptions, stop: StopSignal) -> WorkResult | None:
    """Train one trial in a process and return its result; None where the process died before it had a trial."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["hpo.search.isolation"])
    answer, theirs = context.Pipe(duplex=False)
    lifeline, ours = context.Pipe(duplex=False)
    process = context.Process(target=_train_one, args=(options, theirs, lifeline), name="trial")
    with ours:  # only this process holds it open: its end tells the trial's process that this worker is gone
        process.start()
        theirs.close()
        lifeline.close()
        result = _wait_for_answer(answer, process, stop)
        process.join()
    if isinstance(result, WorkResult):
        return result
    if isinstance(result, _Fault):
        raise HpoError(result.message)
    return WorkResult(0, over=False) if _handle_death(options, process) else None


def _wait_for_answer(answer: Connection, process: BaseProcess, stop: StopSignal) -> object:
    """Return what the process sends at its end, None if it dies; a stop is forwarded to it once."""
    forwarded = False
    while not answer.poll(0.2):
        if stop.received is not None and not forwarded and process.pid is not None:
            os.kill(process.pid, STOP_REQUEST)
            forwarded = True
    try:
        return answer.recv()
    except EOFError:
        return None


def _handle_death(options: IsolatedWorkerOptions, process: BaseProcess) -> bool:
    """End the lease of a process that died, which is gone for certain; return whether it may have had a trial."""
    log.warning("the process of a trial died (%s)", _cause(process.exitcode))
    try:
        with _open_database(options) as db:
            return expire_leases(db, open_study(db, options.study), Worker(pid=process.pid or 0)) > 0
    except StorageError as error:
        log.warning("its trial goes on when its lease expires: %s", error)
        return True


def _cause(code: int | None) -> str:
    return signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"


def _train_one(options: IsolatedWorkerOptions, answer: Connection, lifeline: Connection) -> None:
    """Train one trial: the body of the process."""
    os.setsid()  # Ctrl-C reaches the process through the worker, once
    log_to_stderr(options.verbosity)
    quiet_optuna()
    use_threads(options.threads)
    with answer, _stopping_with(lifeline):
        try:
            # The free device is looked for here, since only this process may open devices.
            resolved = replace(options, device=resolve_device(options.device))
            # The database may be away between two trials as it may be during one.
            with RetryPolicy(options.db_grace).run(lambda: _open_database(options)) as db:
                result: WorkResult | _Fault = work(db, resolved, most=1)
        except (HpoError, StorageError, SpaceError, OSError) as error:
            result = _Fault(str(error))
        with suppress(BrokenPipeError):  # the worker is gone
            answer.send(result)


def _open_database(options: IsolatedWorkerOptions) -> Database:
    return open_database(options.storage, home=options.home, start_timeout=CONNECT_TIMEOUT, create=False)


@contextmanager
def _stopping_with(lifeline: Connection) -> Iterator[None]:
    """Ask this process to stop when the worker, which holds the other end of `lifeline`, is gone."""
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            if lifeline.poll(0.5):
                os.kill(os.getpid(), STOP_REQUEST)
                return

    thread = threading.Thread(target=watch, name="lifeline", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
