"""The lease protocol against a model: any interleaving of workers, some of which died or lost their lease, and users.

Three workers, each with its own connections, and a user at a command line act on one study. There are no pauses and no
threads: a lease expires by a rule of the machine, a transaction stays open until a rule ends it, and a call whose
answer is lost is repeated. Workers also write under every lease that they lost.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import optuna
import psycopg2
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from optuna.samplers import RandomSampler
from optuna.trial import TrialState
from psycopg2.extras import NamedTupleCursor
from sqlalchemy import Connection, make_url, text

from storage import (
    Claim,
    Control,
    Database,
    Lease,
    LeaseLostError,
    Limits,
    NoTrial,
    advance,
    claim_trial,
    expire_leases,
    load_trial,
    open_database,
    open_study,
    reap,
    set_checkpoint,
    set_control,
    write_attributes,
    write_limits,
)
from storage.lease_session import Ending
from storage.leases import renew
from tests.storage.lease_model import Model, Row, Verdict
from tests.storage.lease_process import Process, Write

pytestmark = pytest.mark.postgres

WORKERS = 3
_NAMES = itertools.count()

_PREPARE_SHOWN = """
    SET enable_seqscan = off;  -- the tables are small when the statement is planned, and large in the end
    PREPARE shown (int) AS
    SELECT t.number, t.state::text AS trial_state, l.state, l.worker, l.token, coalesce(l.deaths, 0) AS deaths,
           l.state = 'held' AND l.deadline < clock_timestamp() AS expired,
           (SELECT coalesce(jsonb_object_agg(p.param_name, p.param_value), '{}')
            FROM trial_params p WHERE p.trial_id = t.trial_id) AS params,
           (SELECT coalesce(jsonb_object_agg(v.step, v.intermediate_value), '{}')
            FROM trial_intermediate_values v WHERE v.trial_id = t.trial_id) AS reports,
           (SELECT v.value FROM trial_values v WHERE v.trial_id = t.trial_id) AS value,
           l.checkpoint, t.datetime_start, t.datetime_complete,
           (SELECT jsonb_object_agg(a.key, a.value_json)
            FROM trial_user_attributes a WHERE a.trial_id = t.trial_id) AS attributes
    FROM trials t LEFT JOIN hpo_leases l ON l.trial_id = t.trial_id WHERE t.study_id = $1 ORDER BY t.number
"""
_SHOWN_OF_ROW = 11
_EXPIRE = text(
    "UPDATE hpo_leases SET deadline = clock_timestamp(), seconds = 0 WHERE trial_id = :trial AND state = 'held'"
)


class Protocol(RuleBasedStateMachine):
    """The rules are the actions of workers, a reaper and users; the invariants are checked after each."""

    processes = st.integers(0, WORKERS - 1)
    back = st.sampled_from([0, 0, 0, 1, 2])
    """Index of the lease for a write, from the latest: mostly that, sometimes one that was lost long ago."""
    values = st.sampled_from([0.125, 0.25, 0.5])
    steps = st.integers(1, 3)
    indices = st.integers(0, 5)

    def __init__(self, databases: list[Database], shown: Callable[[int], list[Any]], reached: set[str]) -> None:
        """`reached` collects the states in which trials are at the end of an example."""
        super().__init__()
        self.reached = reached
        *own, self.people = databases
        self.shown = shown
        self.study = optuna.create_study(study_name=f"cells-{next(_NAMES)}", storage=self.people.storage)
        pids = itertools.count(1_000_000)
        name, seeds = self.study.study_name, itertools.count()
        self.all = [Process(db, open_study(db, name, RandomSampler(seed=next(seeds))), pids) for db in own]
        self.model = Model()
        self.tokens: set[int] = set()
        self.ids: dict[int, int] = {}
        self.finished: dict[int, tuple[Any, ...]] = {}

    @initialize(cap=st.sampled_from([None, 1, 2, 3]), points=st.integers(0, 5))
    def start(self, cap: int | None, points: int) -> None:
        self.change_cap(cap)
        for _ in range(points):
            self.enqueue(0.5)
        for which in range(WORKERS):
            self.claim(which)

    # What workers do.

    @rule(which=processes)
    def claim(self, which: int) -> None:
        """Claim the next trial, or the same under a new token when the answer to an earlier call was lost."""
        process = self.all[which]
        process.commit()
        before = self.model.claimed_trials
        expected = self.model.claim(process.worker.name, self._under_way())
        found = claim_trial(process.db, process.study, process.worker)
        if isinstance(expected, NoTrial):
            assert found is expected
            return
        assert isinstance(found, Claim), found
        assert found.number == expected.number
        assert found.lease.checkpoint == expected.checkpoint
        assert self.model.cap is None or self.model.claimed_trials <= max(before, self.model.cap)
        assert found.lease.token not in self.tokens
        self.tokens.add(found.lease.token)
        expected.token = found.lease.token
        process.leases.append((found.number, found.lease))
        self.ids[found.number] = found.lease.trial_id

    @rule(which=processes, back=back)
    def suggest(self, which: int, back: int) -> None:
        """Suggest: a value that was suggested once is returned to every later worker."""
        seen: list[float] = []

        study = self.all[which].study

        def write(_: Database, lease: Lease, connection: Connection) -> None:
            seen.append(load_trial(study, Claim(0, lease)).suggest_float("x", 0, 1))
            write_attributes(connection, lease.trial_id, {"seed": 7})

        def happened(row: Row) -> None:
            row.x = seen[0] if row.x is None else row.x
            row.params = {"x": row.x}
            assert set(seen) == {row.x}

        self._write(which, back, write, happened)

    @rule(which=processes, back=back, step=steps, value=values)
    def report(self, which: int, back: int, step: int, value: float) -> None:
        self._write(which, back, _reporting(step, value), lambda row: _reported(row, step, value))

    @rule(which=processes, back=back, step=steps, value=values)
    def begin_report(self, which: int, back: int, step: int, value: float) -> None:
        """Begin a report. Its COMMIT comes with the next action of the process, after actions of others."""
        if (found := self._lease(which, back)) is None:
            return
        process, lease, row = found
        if self.model.judge(lease.token, row) is Verdict.WRITTEN:
            process.begin(row.number, lease, _reporting(step, value), lambda: _reported(row, step, value))

    @rule(which=processes, back=back)
    def renew(self, which: int, back: int) -> None:
        if (found := self._lease(which, back)) is None:
            return
        process, lease, row = found
        try:
            control = process.db.storage.atomically(lambda connection: renew(connection, lease, 0.5, None))
        except LeaseLostError:
            assert self.model.judge(lease.token, row) is Verdict.LOST
        else:
            assert self.model.judge(lease.token, row) is not Verdict.LOST
            assert control is self.model.control
            row.expired = None

    @rule(which=processes, back=back, ending=st.sampled_from([TrialState.COMPLETE, TrialState.FAIL]), value=values)
    def tell(self, which: int, back: int, ending: TrialState, value: float) -> None:
        stored = value if ending is TrialState.COMPLETE else None

        def write(db: Database, lease: Lease, connection: Connection) -> None:
            write_attributes(connection, lease.trial_id, {"seconds": 1.0})
            db.storage.set_trial_state_values(lease.trial_id, ending, None if stored is None else [stored])

        def happened(row: Row) -> None:
            row.state, row.value, row.lease, row.expired = ending.name, stored, "ended", None

        self._write(which, back, write, happened, "ended")

    @rule(which=processes, back=back)
    def requeue(self, which: int, back: int) -> None:
        def write(db: Database, lease: Lease, connection: Connection) -> None:
            db.storage.set_trial_state_values(lease.trial_id, TrialState.WAITING)
            set_checkpoint(connection, lease, 1.5, {"stopped by": lease.token})

        def happened(row: Row) -> None:
            row.state, row.lease, row.expired, row.checkpoint = "WAITING", "free", None, {"stopped by": row.token}

        self._write(which, back, write, happened, "free")

    @rule(which=processes, times=st.integers(1, 3))
    def fall(self, which: int, times: int) -> None:
        """Kill the worker of a trial several times in a row."""
        for _ in range(times):
            self.die(which, noticed=True)
            self.claim(which)

    @rule(which=processes, noticed=st.booleans())
    def die(self, which: int, *, noticed: bool) -> None:
        """Replace a process by a new one and roll back its transaction. Its parent may end its leases."""
        process, gone = self.all[which], self.all[which].worker
        process.abort()
        process.start()
        held = [row for row in self.model.rows if row.lease == "held" and row.worker == gone.name]
        if noticed:
            assert expire_leases(self.people, self.study, gone) == len(held)
            for row in held:
                self.model.expire(row)

    # What time and people do.

    @rule(index=indices)
    def expire(self, index: int) -> None:
        held = [row for row in self.model.rows if row.lease == "held"]
        if held:
            row = held[index % len(held)]
            self._let_commit(row.number)
            self.model.expire(row)
            with self.people.engine.begin() as connection:
                connection.execute(_EXPIRE, {"trial": self.ids[row.number]})

    @rule(index=indices, which=processes, step=steps, value=values)
    def take_over(self, index: int, which: int, step: int, value: float) -> None:
        """Let a lease expire and another worker claim the trial, the most frequent sequence."""
        self.expire(index)
        self.claim(which)
        self.report(which, 0, step, value)

    @rule()
    def reap(self) -> None:
        requeued, failed = self.model.reap(self._under_way())
        reaped = reap(self.people, self.study)
        assert (reaped.requeued, reaped.failed) == (requeued, failed)

    @rule(index=indices, value=values)
    def finish_by_hand(self, index: int, value: float) -> None:
        """End a running trial in a dashboard, which knows no leases."""
        running = [row for row in self.model.rows if row.state == "RUNNING"]
        if running:
            row = running[index % len(running)]
            self._let_commit(row.number)
            self.people.storage.set_trial_state_values(self.ids[row.number], TrialState.COMPLETE, [value])
            row.state, row.value = "COMPLETE", value

    @rule(x=values)
    def enqueue(self, x: float) -> None:
        self.study.enqueue_trial({"x": x})
        self.model.rows.append(Row(len(self.model.rows), x=x))

    @rule(cap=st.sampled_from([None, 0, 1, 2, 3, 4]))
    def change_cap(self, cap: int | None) -> None:
        write_limits(self.study, Limits(trials=cap))
        self.model.cap = cap

    @rule(control=st.sampled_from([Control.PAUSE, Control.STOP]), which=processes)
    def hold(self, control: Control, which: int) -> None:
        """Pause or stop: a claim gets no trial, and a renewal returns the control; then resume."""
        assert set_control(self.people, self.study, control) is Control.RUN
        self.model.control = control
        self.claim(which)
        self.renew(which, 0)
        self.model.control = Control.RUN
        assert set_control(self.people, self.study, Control.RUN) is control

    # What must hold.

    @invariant()
    def the_database_shows_the_model(self) -> None:
        rows = self.shown(self.study._study_id)
        assert len(rows) == len(self.model.rows)
        for row, expected in zip(rows, self.model.rows, strict=True):
            shown = (*row[:7], row.params, {int(step): value for step, value in row.reports.items()}, *row[9:11])
            if expected.lease in ("free", "ended") and expected.token is None:
                assert row.token not in self.tokens, "an earlier holder must not be able to write"
                self.tokens.add(row.token)
                expected.token = row.token
            assert (*shown[:6], bool(shown[6]), *shown[7:]) == expected.shown()
            assert expected.state != "RUNNING" or row[2] == "held", "a trial that runs without a lease to expire"
            if expected.finished:
                lasting = (*row[:2], *row[7:10], *row[_SHOWN_OF_ROW:])
                assert self.finished.setdefault(expected.number, lasting) == lasting, "a finished trial changed"

    def teardown(self) -> None:
        self.reached.update(row.state for row in self.model.rows)
        for process in self.all:
            process.abort()

    def _lease(self, which: int, back: int) -> tuple[Process, Lease, Row] | None:
        """Return a process without an open transaction, and one of its leases."""
        process = self.all[which]
        process.commit()
        if not process.leases:
            return None
        number, lease = process.leases[max(-len(process.leases), -1 - back)]
        return process, lease, self.model.rows[number]

    def _write(
        self, which: int, back: int, write: Write, happened: Callable[[Row], None], ending: Ending | None = None
    ) -> None:
        """Write twice: the answer to the first COMMIT was lost."""
        if (found := self._lease(which, back)) is None:
            return
        process, lease, row = found
        for _ in range(2):
            verdict = self.model.judge(lease.token, row, ending)
            seen = process.attempt(lease, write, ending)
            assert seen is (Verdict.WRITTEN if verdict is Verdict.KNOWN else verdict)
            if verdict is Verdict.WRITTEN:
                happened(row)

    def _under_way(self) -> set[int]:
        return {process.writes_for for process in self.all if process.writes_for is not None}

    def _let_commit(self, number: int) -> None:
        """Commit the open transactions for a trial before its rows are locked."""
        for process in self.all:
            if process.writes_for == number:
                process.commit()


def _reporting(step: int, value: float) -> Write:
    def write(db: Database, lease: Lease, connection: Connection) -> None:
        db.storage.set_trial_intermediate_value(lease.trial_id, step, value)
        advance(connection, lease, float(step), {"epoch": step, "of": lease.token})

    return write


def _reported(row: Row, step: int, value: float) -> None:
    row.reports[step] = value
    row.deaths, row.expired, row.checkpoint = 0, None, {"epoch": step, "of": row.token}


@pytest.fixture
def databases(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Database]]:
    """Connections to the same database, for each worker and for the user.

    None of them is cut, so none is pinged before each use, which would be a third of all statements.
    """
    with ExitStack() as opened:
        paths = [Path("unused")] * (WORKERS + 1)
        databases = [opened.enter_context(open_database(database_url, home=path)) for path in paths]
        for database in databases:
            for engine in (database.engine, database.storage.engine):
                monkeypatch.setattr(engine.dialect, "do_ping", lambda _: True)
        yield databases


@pytest.fixture
def shown(database_url: str) -> Iterator[Callable[[int], list[Any]]]:
    """Return the trials of a study with their leases as a session of its own sees them."""
    url = make_url(database_url)
    opened = psycopg2.connect(user=url.username, dbname=url.database, cursor_factory=NamedTupleCursor, **url.query)
    with closing(opened) as session, session.cursor() as cursor:
        session.autocommit = True
        cursor.execute(_PREPARE_SHOWN)

        def shown(study: int) -> list[Any]:
            cursor.execute("EXECUTE shown (%s)", (study,))
            rows: list[Any] = cursor.fetchall()
            return rows

        yield shown


def _many(part: str) -> Any:
    """Return one of two halves, for two test processes: every run of hypothesis draws its own examples."""
    return pytest.param(500, 60, marks=[pytest.mark.slow(90), pytest.mark.timeout(1800)], id=f"many, {part} half")


@pytest.mark.slow(20)
@pytest.mark.parametrize(("examples", "steps"), [pytest.param(60, 40, id="few"), _many("one"), _many("other")])
def test_every_interleaving_agrees_with_the_model(
    databases: list[Database], shown: Callable[[int], list[Any]], caplog: pytest.LogCaptureFixture,
    examples: int, steps: int,
) -> None:  # fmt: skip
    """The rules of `Protocol` and its invariant compare the database with the model after each action."""
    caplog.set_level(logging.WARNING, "optuna")
    reached: set[str] = set()
    run_state_machine_as_test(
        lambda: Protocol(databases, shown, reached),
        settings=settings(
            max_examples=examples, stateful_step_count=steps, deadline=None, database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip
    assert reached == {"WAITING", "RUNNING", "COMPLETE", "FAIL"}, "the examples left a state of a trial untried"
