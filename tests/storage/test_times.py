"""Times of trials: by the database's clock, in UTC, for workers and readers in any time zone and for optuna."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import optuna
import pytest
from optuna.trial import TrialState

from storage import Claim, Database, LeaseSession, StudySpec, create_study, load_trial
from tests.storage.conftest import claimed

pytestmark = pytest.mark.postgres
ZONES = ("Asia/Tokyo", "America/New_York", "UTC", "Asia/Kolkata")
SLACK = timedelta(milliseconds=5)
"""Tolerance between the test's clock and the database's, which are the same on this machine."""


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    yield monkeypatch
    monkeypatch.undo()
    time.tzset()


def stay_in(zone: pytest.MonkeyPatch, name: str) -> None:
    zone.setenv("TZ", name)
    time.tzset()


def finish(database: Database, study: optuna.Study, claim: Claim, state: TrialState) -> None:
    trial = load_trial(study, claim)
    values = 0.5 if state == TrialState.COMPLETE else None
    with LeaseSession(database.storage, claim.lease) as session:
        assert session.submit(lambda _: study.tell(trial, values, state), ending="ended").wait(30)


def utc(moment: datetime | None) -> datetime:
    assert moment is not None
    return moment.astimezone(UTC)


@pytest.mark.parametrize("reader", ZONES)
@pytest.mark.parametrize("writer", ZONES)
def test_start_and_end_are_correct_in_every_time_zone(
    database: Database, spec: StudySpec, zone: pytest.MonkeyPatch, writer: str, reader: str
) -> None:
    study = create_study(database, "cells", spec, [{"x": 0.5}])
    stay_in(zone, writer)
    before = datetime.now(UTC)
    for state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL):  # the first is enqueued, the others are new
        finish(database, study, claimed(database, study), state)
    claimed(database, study)
    after = datetime.now(UTC)
    stay_in(zone, reader)
    times = [before]
    for trial in study.get_trials():
        times.append(utc(trial.datetime_start))
        if trial.state.is_finished():
            times.append(utc(trial.datetime_complete))
            assert timedelta() <= trial.duration <= after - before
    times.append(after)
    assert all(later - earlier >= -SLACK for earlier, later in pairwise(times)), times


def test_optuna_still_reads_the_columns_as_they_are_written(
    database: Database, spec: StudySpec, zone: pytest.MonkeyPatch
) -> None:
    study = create_study(database, "cells", spec)
    stay_in(zone, "America/New_York")
    study.ask()  # written by optuna's own statements
    claimed(database, study)
    first, second = (utc(trial.datetime_start) for trial in study.get_trials())
    assert timedelta() <= second - first < timedelta(seconds=30)


def test_the_clock_of_a_worker_does_not_matter(
    database: Database, spec: StudySpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fast(datetime):
        """A clock that is an hour ahead."""

        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + timedelta(hours=1)  # type: ignore[arg-type]

    study = create_study(database, "cells", spec, [{"x": 0.5}])
    monkeypatch.setattr("optuna.storages._rdb.storage.datetime", Fast)
    for _ in range(2):
        finish(database, study, claimed(database, study), TrialState.COMPLETE)
    monkeypatch.undo()
    for trial in study.get_trials():
        assert abs(utc(trial.datetime_complete) - datetime.now(UTC)) < timedelta(minutes=1)
        assert abs(utc(trial.datetime_start) - datetime.now(UTC)) < timedelta(minutes=1)
