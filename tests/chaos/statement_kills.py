"""Kills between every two statements: `python -m tests.chaos.statement_kills` enumerates them, one line for each case.

    claim-new, claim-waiting, claim-expired    from the beginning of a claim to the answer of its COMMIT
    claim-replicate                            the same, where the claim decides which trial is trained again
    train                                      parameters, two reports, and the end of a trial
    release                                    requeuing a trial

For each case and n = 1, 2, … a new worker dies at the n-th moment, on a fresh copy of the same database, until a worker
completes the operation. Another worker then claims the expired trials and finishes the study; the outcome is compared
with that of a study without a death.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path

from search_spaces import SearchSpace
from storage import (
    Claim,
    Confirmation,
    Limits,
    StudySpec,
    claim_trial,
    create_study,
    open_database,
    quiet_optuna,
    write_limits,
)
from tests.chaos import audit
from tests.chaos.deadly_statements import EPOCHS, STUDY, Operation, Order, carry_out, train, worker_context
from tests.chaos.disk import scratch
from tests.chaos.server import Server, running_server
from tests.chaos.sql import Sql
from tests.chaos.verify import Curve, judge, read_curves

TRIALS = 1
_MOST = 400
"""Most moments of an operation; with more it would never end."""
_EXPIRE = "UPDATE hpo_leases SET deadline = clock_timestamp() - interval '1 s', seconds = 0 WHERE state = 'held'"


@dataclass(frozen=True)
class Case:
    """An operation, and the state of the database before it."""

    name: str
    operation: Operation
    before: Callable[[Server, str], None]


@dataclass(frozen=True)
class Finding:
    """The outcome of one case."""

    case: str
    moments: int
    """Number of moments at which a worker died."""
    broken: tuple[str, ...]
    """Broken promises, each with its moment."""


class CaseRunner:
    """A server with a database template for each case, and the expected outcome."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server, self.folder = server, folder
        self._copies = count()
        server.create_database("fresh")
        _create_study(server.url("fresh"))
        audit.install(server.sql("fresh"))
        self.expected = self._without_a_death()

    def enumerate(self, case: Case) -> Finding:
        """Run `case` with a worker that dies at each moment."""
        template = f"case_{next(self._copies)}"
        self.server.create_database(template, "fresh")
        case.before(self.server, template)
        broken: list[str] = []
        for moment in range(1, _MOST):
            died, found = self._one(case, template, moment)
            broken += [f"moment {moment}: {text}" for text in found]
            if not died:
                return Finding(case.name, moment - 1, tuple(broken))
        return Finding(case.name, _MOST, (*broken, "the operation does not end"))

    def _one(self, case: Case, template: str, moment: int) -> tuple[bool, list[str]]:
        """Return whether the worker died, and what was wrong afterwards."""
        name, artifacts = self._copy(template)
        # A fork of this process starts fast: every statement is compiled already.
        order = Order(self.server.url(name), artifacts, case.operation, moment)
        worker = multiprocessing.get_context("fork").Process(target=carry_out, args=(order,))
        worker.start()
        worker.join()
        wrong = [] if worker.exitcode in (0, -signal.SIGKILL) else [f"the worker ended with {worker.exitcode}"]
        sql = self.server.sql(name)
        sql(_EXPIRE)
        self._finish(name, artifacts)
        verdict = judge(sql, self.expected)
        self.server.drop_database(name)
        return worker.exitcode == -signal.SIGKILL, [*wrong, *verdict.details]

    def _finish(self, name: str, artifacts: Path) -> None:
        """Train every remaining trial as another worker."""
        with open_database(self.server.url(name), home=self.folder) as db:
            context = worker_context(db, artifacts)
            while isinstance(claim := claim_trial(db, context.study, context.worker), Claim):
                train(context, claim)

    def _without_a_death(self) -> Mapping[int, Curve]:
        name, artifacts = self._copy("fresh")
        self._finish(name, artifacts)
        curves = {curve.number: curve for curve in read_curves(self.server.sql(name))}
        assert [curve.state for curve in curves.values()] == ["COMPLETE"] * TRIALS, curves
        return curves

    def _copy(self, template: str) -> tuple[str, Path]:
        """Copy a database; return its name and an empty folder for its checkpoints."""
        name = f"copy_{next(self._copies)}"
        self.server.create_database(name, template)
        return name, self.folder / name


def _create_study(url: str) -> None:
    space = SearchSpace.from_dict(
        {
            "name": "kills", "summary": "", "points": [],
            "fixed": {"backbone": "none", "pretrained": False, "epochs": EPOCHS, "image_size": 32},
            "dimensions": {
                "learning_rate": {"type": "float", "low": 1e-4, "high": 1e-1, "log": True},
                "dropout": {"type": "float", "low": 0.0, "high": 0.5},
            },
        }
    )  # fmt: skip
    spec = StudySpec(
        space=space.to_dict(), space_fingerprint=space.fingerprint, data={}, data_fingerprint="0", metric="accuracy",
        seed=7, sampler="random", pruner="none",
    )  # fmt: skip
    with open_database(url, home=Path("unused")) as db:
        db.initialise()
        create_study(db, STUDY, spec, limits=Limits(trials=TRIALS))


def _as_it_is(server: Server, database: str) -> None:
    """Leave the study without a claimed trial."""


def _held(server: Server, database: str) -> Sql:
    with open_database(server.url(database), home=Path("unused")) as db:
        context = worker_context(db, Path("unused"))
        assert isinstance(claim_trial(db, context.study, context.worker), Claim)
    return server.sql(database)


def _waiting(server: Server, database: str) -> None:
    """Requeue a trial before its first epoch."""
    _held(server, database)("BEGIN; UPDATE trials SET state = 'WAITING'; UPDATE hpo_leases SET state = 'free'; COMMIT")


def _expired(server: Server, database: str) -> None:
    """Expire the lease of a trial before its first epoch."""
    _held(server, database)(_EXPIRE)


def _confirmed(server: Server, database: str) -> None:
    """Train the trial, and give the study a second one, which repeats it."""
    with open_database(server.url(database), home=Path("unused")) as db, tempfile.TemporaryDirectory() as folder:
        context = worker_context(db, Path(folder))
        claim = claim_trial(db, context.study, context.worker)
        assert isinstance(claim, Claim)
        train(context, claim)
        write_limits(context.study, Limits(trials=TRIALS + 1, confirm=Confirmation(1)))


CASES = (
    Case("claim-new", "claim", _as_it_is),
    Case("claim-waiting", "claim", _waiting),
    Case("claim-expired", "claim", _expired),
    Case("claim-replicate", "claim", _confirmed),
    Case("train", "train", _as_it_is),
    Case("release", "release", _as_it_is),
)


def main() -> None:
    """Run every case and print a JSON line for each; the exit code is 1 when a promise was broken."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwind, so that the server is stopped
    logging.disable(logging.WARNING)
    quiet_optuna()
    failed = False
    with tempfile.TemporaryDirectory(prefix="hpo-kills-", dir=scratch()) as folder, running_server() as server:
        runner = CaseRunner(server, Path(folder))
        for case in CASES:
            finding = runner.enumerate(case)
            failed = failed or bool(finding.broken)
            sys.stdout.write(json.dumps(asdict(finding)) + "\n")
            sys.stdout.flush()
    sys.exit(failed)


if __name__ == "__main__":
    main()
