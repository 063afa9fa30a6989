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
from pathlib import Path

from hpo.device import resolve_device, use_threads
from hpo.errors import HpoError
from hpo.logs import log_to_stderr
from hpo.search.signals import NOTICE, StopSignal
from hpo.search.worker import BETWEEN_ATTEMPTS, WorkerOptions, WorkResult, work_shift
from search_spaces import SpaceError
from storage import Database, RetryPolicy, StorageError, Worker, expire_leases, open_database, open_study, quiet_optuna

log = logging.getLogger(__name__)


EARLY_DEATHS = 3
"""After so many processes in a row that die before they have a trial, the fault is no trial's."""


@dataclass(frozen=True)
class Surroundings:
    """What a process needs besides the worker's options."""

    storage: str | None
    """URL of the database, with its password: it is handed over through a pipe, not among arguments."""
    home: Path
    threads: int | None
    verbosity: int
    """Level of the log."""


@dataclass(frozen=True)
class _Fault:
    """An error of the user's, or of a database that was away too long, told by the process that met it."""

    message: str


def work_isolated(surroundings: Surroundings, options: WorkerOptions) -> int:
    """Like `work`, each trial in a process of its own."""
    finished = early = 0
    with StopSignal(options.preempt_file).installed() as stop:
        while stop.received is None:
            shift = _in_a_process(surroundings, options, stop)
            if shift is None:
                early += 1
                if early == EARLY_DEATHS:
                    raise HpoError(f"{EARLY_DEATHS} processes in a row died before they had a trial; the log says more")
                continue
            early = 0
            options = replace(options, artifacts_checked=True)
            finished += shift.finished
            if shift.over:
                break
    return finished


def _in_a_process(surroundings: Surroundings, options: WorkerOptions, stop: StopSignal) -> WorkResult | None:
    """What came of one process; None where it died without a trial."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["hpo.search.isolation"])
    answer, theirs = context.Pipe(duplex=False)
    orphaned, lifeline = context.Pipe(duplex=False)
    process = context.Process(target=_trial_process, args=(surroundings, options, theirs, orphaned), name="trial")
    with lifeline:  # held open by nobody else: its end tells the process that we are gone
        process.start()
        theirs.close()
        orphaned.close()
        told = _answer(answer, process, stop)
        process.join()
    if isinstance(told, WorkResult):
        return told
    if isinstance(told, _Fault):
        raise HpoError(told.message)
    return WorkResult(0, over=False) if _bury(surroundings, options, process) else None


def _answer(answer: Connection, process: multiprocessing.process.BaseProcess, stop: StopSignal) -> object:
    """What the process tells at its end, None if it dies; a stop is handed on to it once."""
    handed_on = False
    while not answer.poll(0.2):
        if stop.received is not None and not handed_on and process.pid is not None:
            os.kill(process.pid, NOTICE)
            handed_on = True
    try:
        return answer.recv()
    except EOFError:
        return None


def _bury(surroundings: Surroundings, options: WorkerOptions, process: multiprocessing.process.BaseProcess) -> bool:
    """The process of a trial died: its lease ends now, since it is gone for certain. Whether it may have had one."""
    log.warning("the process of a trial died (%s)", _cause(process.exitcode))
    try:
        with open_database(
            surroundings.storage, home=surroundings.home, start_timeout=BETWEEN_ATTEMPTS, create=False
        ) as db:
            return expire_leases(db, open_study(db, options.study), Worker(pid=process.pid or 0)) > 0
    except StorageError as error:
        log.warning("its trial goes on when its lease expires: %s", error)
        return True


def _cause(code: int | None) -> str:
    return signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"


def _trial_process(
    surroundings: Surroundings, options: WorkerOptions, answer: Connection, orphaned: Connection
) -> None:
    os.setsid()  # Ctrl-C reaches it through the worker, once
    log_to_stderr(surroundings.verbosity)
    quiet_optuna()
    use_threads(surroundings.threads)
    with answer, _ending_with(orphaned):
        try:
            there = replace(options, device=resolve_device(options.device))
            with _patiently(surroundings, options) as db:
                told: object = work_shift(db, there, most=1)
        except (HpoError, StorageError, SpaceError, OSError) as error:
            told = _Fault(str(error))
        with suppress(BrokenPipeError):  # the worker is gone
            answer.send(told)


def _patiently(surroundings: Surroundings, options: WorkerOptions) -> Database:
    """The database, which may be away between two trials as it may be during one."""
    return RetryPolicy(options.db_grace).run(
        lambda: open_database(
            surroundings.storage, home=surroundings.home, start_timeout=BETWEEN_ATTEMPTS, create=False
        )
    )


@contextmanager
def _ending_with(lifeline: Connection) -> Iterator[None]:
    """Inside, NOTICE comes when the other end of `lifeline` is closed: the worker is gone."""
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            if lifeline.poll(0.5):
                os.kill(os.getpid(), NOTICE)
                return

    thread = threading.Thread(target=watch, name="lifeline", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
