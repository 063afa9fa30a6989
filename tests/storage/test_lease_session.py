"""The lease session under real faults of the database: cut connections, a server that is away."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from sqlalchemy import Connection, event, text

import storage.lease_session
from storage import (
    Claim,
    Control,
    Database,
    LeaseSession,
    StudySpec,
    Worker,
    create_study,
    lease_infos,
    open_database,
    open_study,
    set_control,
)
from tests.storage.conftest import claimed

pytestmark = pytest.mark.postgres

SOON = 20.0
"""Seconds after which an expected event counts as missing."""


@pytest.fixture
def study(database: Database, spec: StudySpec) -> optuna.Study:
    return create_study(database, "cells", spec)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage.lease_session, "PAUSES", (0.02, 0.05))


@pytest.fixture
def other(database_url: str, study: optuna.Study) -> Iterator[Database]:
    """Another worker's connection to the same database."""
    with open_database(database_url, home=Path("unused")) as other:
        yield other


def eventually(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        threading.Event().wait(0.01)


def reporter(database: Database, claim: Claim, step: int) -> Callable[[Connection], None]:
    trial, value = claim.lease.trial_id, step / 10
    return lambda _: database.storage.set_trial_intermediate_value(trial, step, value)


def cut(database: Database, other: Database) -> None:
    """End all sessions of `database`, as a restart of the server does."""
    own = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> "
    with other.engine.connect() as connection:
        connection.execute(text(own + "pg_backend_pid()"))


def test_a_lease_is_renewed_while_its_session_is_open(database: Database, study: optuna.Study) -> None:
    claim = claimed(database, study, Worker(seconds=1.5))
    before = lease_infos(database, study)[0]
    with LeaseSession(database.storage, claim.lease) as session:
        session.position, session.note = 2.25, "waits for room"
        eventually(lambda: lease_infos(database, study)[0].position == 2.25)
        time_passes = lease_infos(database, study)[0]
    assert time_passes.claimed_at == before.claimed_at
    assert time_passes.note == "waits for room"
    assert time_passes.left > 1.0


def test_the_control_of_the_study_is_read_with_the_next_renewal(database: Database, study: optuna.Study) -> None:
    with LeaseSession(database.storage, claimed(database, study, Worker(seconds=0.6)).lease) as session:
        set_control(database, study, Control.PAUSE)
        eventually(lambda: session.control is Control.PAUSE)
        assert not session.over


def test_reports_are_written_in_order_and_the_question_is_asked_after_the_last(
    database: Database, study: optuna.Study
) -> None:
    claim = claimed(database, study)
    with LeaseSession(database.storage, claim.lease) as session:
        writes = [session.submit(reporter(database, claim, step), question=lambda: "no") for step in (1, 2, 3)]
        assert all(pending.wait(SOON) for pending in writes)
    assert writes[-1].answer == "no"
    assert study.get_trials()[0].intermediate_values == {1: 0.1, 2: 0.2, 3: 0.3}


def test_reports_survive_cut_connections_and_are_written_once(
    database: Database, other: Database, study: optuna.Study
) -> None:
    claim = claimed(database, study)
    with LeaseSession(database.storage, claim.lease) as session:
        for step in range(1, 11):
            session.submit(reporter(database, claim, step))
            cut(database, other)
        trial = claim.lease.trial_id
        last = session.submit(
            lambda _: database.storage.set_trial_state_values(trial, TrialState.COMPLETE, [0.5]), ending="ended"
        )
        assert last.wait(SOON)
        assert not session.over
    (frozen,) = open_study(other, "cells").get_trials()
    assert frozen.intermediate_values == {step: step / 10 for step in range(1, 11)}
    assert (frozen.state, frozen.value) == (TrialState.COMPLETE, 0.5)


@pytest.mark.parametrize("ending", ["ended", "free"])
def test_an_end_whose_commit_was_not_answered_is_written_once(
    database: Database, other: Database, study: optuna.Study, ending: str
) -> None:
    claim = claimed(database, study)
    cuts: list[int] = []

    def lose_the_answer(connection: Connection) -> None:
        """Commit the transaction, and cut the connection before the answer."""
        if not cuts:
            cuts.append(1)
            connection.connection.driver_connection.commit()  # type: ignore[union-attr]
            cut(database, other)

    state = TrialState.COMPLETE if ending == "ended" else TrialState.WAITING
    values = [0.5] if ending == "ended" else None
    with LeaseSession(database.storage, claim.lease) as session:
        event.listen(database.storage.engine, "commit", lose_the_answer)
        pending = session.submit(
            lambda _: database.storage.set_trial_state_values(claim.lease.trial_id, state, values),
            ending=ending,  # type: ignore[arg-type]
        )
        assert pending.wait(SOON)
        assert cuts
        assert not session.over
    assert lease_infos(other, open_study(other, "cells"))[0].state == ending


def test_start_and_end_of_an_outage_are_detected(
    database: Database, study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = claimed(database, study)
    target = database._connector
    with LeaseSession(database.storage, claim.lease) as session:
        database.start_timeout = 0
        there = target.url
        target.url = there.update_query_dict({"host": "/nowhere"})
        database.storage.engine.dispose()
        pending = session.submit(reporter(database, claim, 1))
        eventually(lambda: session.failing > 0)
        assert not pending.done.is_set()
        target.url = there
        assert pending.wait(SOON)
        eventually(lambda: session.failing == 0)


def test_a_session_whose_trial_was_claimed_by_another_worker_reports_it_and_writes_nothing_more(
    database: Database, other: Database, study: optuna.Study
) -> None:
    claim = claimed(database, study)
    with LeaseSession(database.storage, claim.lease) as session:
        with other.engine.begin() as connection:
            connection.execute(text("UPDATE hpo_leases SET deadline = clock_timestamp(), seconds = 0"))
        again = claimed(other, open_study(other, "cells"))
        assert again.number == claim.number
        late = session.submit(reporter(database, claim, 9))
        assert late.wait(SOON)
        assert session.lost
        assert session.submit(reporter(database, claim, 10)).wait(SOON), (
            "a write that is dropped must not be waited for"
        )
    assert study.get_trials()[0].intermediate_values == {}


def test_the_deletion_of_the_study_is_kept_as_an_error_for_the_trainer(
    database: Database, other: Database, study: optuna.Study
) -> None:
    claim = claimed(database, study)
    with LeaseSession(database.storage, claim.lease) as session:
        optuna.delete_study(study_name="cells", storage=other.storage)
        assert session.submit(reporter(database, claim, 1)).wait(SOON)
        assert session.over


def test_a_worker_uses_two_connections(database: Database, other: Database, study: optuna.Study) -> None:
    count = text(
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
    )
    with other.engine.connect() as connection:
        ours = [row[0] for row in connection.execute(text("SELECT pid FROM pg_stat_activity")).all()]
        assert ours
        claim = claimed(database, study, Worker(seconds=0.3))
        most = 0
        with LeaseSession(database.storage, claim.lease) as session:
            for step in range(1, 30):
                pending = session.submit(reporter(database, claim, step), question=lambda: len(study.get_trials()))
                assert pending.wait(SOON)
                connection.rollback()
                most = max(most, connection.execute(count).scalar_one())
    assert most <= 2
