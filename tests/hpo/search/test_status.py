"""Reading and drawing the status of a study."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from optuna.trial import TrialState
from rich.console import Console

from hpo.cli.status import draw, duration, lease_state, plain_line, sparkline
from hpo.data.changes import DataChanges
from hpo.report.study_data import read_study
from hpo.search.status import StudyReader, StudyStatus, TrialStatus
from storage import Control, LeaseInfo, Limits, Worker, expire_leases, open_study, read_spec, reap, set_control
from storage.spec import write_spec
from tests.hpo.search.conftest import Bench

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def line(number: int, state: str = "complete", value: float | None = 0.5, **more: object) -> TrialStatus:
    whole = TrialStatus(
        number=number, state=state, value=value, epoch=2, epochs=4, curve=(0.1, 0.5), params={"learning_rate": 0.00123},
        seconds=75.0, reason=None, worker="host:1",
    )  # fmt: skip
    return replace(whole, **more)  # type: ignore[arg-type]


def status(*lines: TrialStatus, best: TrialStatus | None = None, limits: Limits | None = None) -> StudyStatus:
    return StudyStatus("cells", "accuracy", "quick", limits or Limits(trials=20), NOW, lines, best)


def lease_info(number: int, **more: object) -> LeaseInfo:
    whole = LeaseInfo(
        number=number, state="held", owner="node-7:4711", device="cuda:1", claimed_at=NOW, age=3.0, left=117.0,
        deaths=0, position=1.5, redone=0.0, attempts=1, note=None,
    )  # fmt: skip
    return replace(whole, **more)  # type: ignore[arg-type]


def drawn(shown: StudyStatus, width: int = 120) -> str:
    console = Console(width=width, record=True, quiet=False, file=None, force_terminal=False)
    with console.capture() as capture:
        console.print(draw(shown))
    return capture.get()


@pytest.mark.postgres
def test_a_status_holds_the_state_of_the_study(bench: Bench) -> None:
    first, second, third = (bench.study.ask() for _ in range(3))
    rate = first.suggest_float("learning_rate", 1e-3, 1e-2, log=True)
    for step, value in enumerate((0.3, 0.8, 0.6), start=1):
        first.report(value, step=step)
    bench.study.tell(first, 0.8)
    second.set_user_attr("reason", "the loss is NaN")
    bench.study.tell(second, state=TrialState.FAIL)
    bench.study._storage.set_trial_state_values(third._trial_id, TrialState.WAITING)
    running = bench.study.ask()

    look = StudyReader(bench.db, bench.study)
    seen = look()
    assert bench.study.metric_names == [seen.metric], "the dashboard's axes are named"
    assert seen.counts == {
        "asked": 3, "finished": 2, "complete": 1, "pruned": 0, "failed": 1, "running": 1, "waiting": 0,
    }  # fmt: skip
    document = json.loads(json.dumps(seen.to_dict(), allow_nan=False))
    assert document["best"] == {"trial": 0, "value": 0.8, "params": {"learning_rate": rate}}
    assert document["failures"] == [{"trial": 1, "reason": "the loss is NaN"}]
    assert document["limit"] == {"trials": 10, "deadline": None, "confirm": 0}
    assert seen.trials[0].curve == [0.3, 0.8, 0.6]
    bench.study.tell(running, 0.9)
    assert look().best == look().trials[2], "a second look sees what has finished meanwhile"


@pytest.mark.postgres
@pytest.mark.parametrize("reader", ["America/New_York", "Asia/Tokyo", "UTC"])
@pytest.mark.parametrize("worker", ["America/New_York", "Asia/Tokyo", "UTC"])
def test_times_are_right_wherever_worker_and_reader_are(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, worker: str, reader: str
) -> None:
    monkeypatch.setenv("TZ", worker)
    time.tzset()
    began = time.monotonic()
    try:
        for _ in range(2):  # the enqueued point, and a new trial
            bench.claim()
        monkeypatch.setenv("TZ", reader)
        time.tzset()
        seen = [one.seconds for one in StudyReader(bench.db, bench.study)().trials if one.state == "running"]
        passed = time.monotonic() - began
    finally:
        monkeypatch.undo()
        time.tzset()
    assert len(seen) == 2
    assert all(0 <= seconds <= passed for seconds in seen), (seen, passed)


@pytest.mark.postgres
def test_a_start_that_an_earlier_version_recorded_in_local_time_gives_no_negative_time(bench: Bench) -> None:
    bench.study.tell(bench.claim().number, 0.5)
    bench.claim()
    with bench.db.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE trials SET datetime_start = datetime_start + interval '9 hours'")
    assert [line.seconds for line in StudyReader(bench.db, bench.study)().trials] == [0.0, 0.0]
    facts = read_study(bench.db, bench.study)
    assert [trial.ended for trial in facts.trials] == [None, None]


@pytest.mark.postgres
def test_a_time_across_the_end_of_summer_time_is_not_an_hour_short(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.study.tell(bench.claim().number, 0.5)
    with bench.db.engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE trials SET datetime_start = '2026-11-01 04:30', datetime_complete = '2026-11-01 07:30'"
        )
    monkeypatch.setenv("TZ", "America/New_York")  # from 00:30 to 02:30
    time.tzset()
    try:
        study = open_study(bench.db, "tiny")
        assert [trial.ended for trial in read_study(bench.db, study).trials] == [3 * 3600]
        assert [line.seconds for line in StudyReader(bench.db, study)().trials] == [3 * 3600]
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("finished", [1, 4, 8, 11, 12])
def test_every_trial_is_drawn_where_there_is_room(finished: int) -> None:
    text = drawn(status(*(line(n) for n in range(finished))))
    assert [f"{n:5}  complete" in text for n in range(finished)] == [True] * finished


def test_the_running_and_the_newest_other_trials_are_drawn_where_there_is_no_room() -> None:
    lines = [line(0, "running"), *(line(n) for n in range(1, 40)), line(40, "waiting", None, epoch=0)]
    text = drawn(status(*lines))
    rows = [int(row.split()[0]) for row in text.splitlines() if row[:5].strip().isdigit()]
    assert rows == [0, *range(29, 40)]


@pytest.mark.postgres
def test_leases_and_repeated_epochs_are_drawn(bench: Bench) -> None:
    bench.claim()
    lost = bench.claim()
    with bench.db.engine.begin() as connection:
        connection.exec_driver_sql(
            f"UPDATE hpo_leases SET redone = 1.5, host = 'gone', pid = 1 WHERE trial_id = {lost.lease.trial_id}"
        )
    expire_leases(bench.db, bench.study, Worker(host="gone", pid=1))
    reap(bench.db, bench.study)
    set_control(bench.db, bench.study, Control.PAUSE)
    document = json.loads(json.dumps(StudyReader(bench.db, bench.study)().to_dict(), allow_nan=False))
    (lease,) = document["leases"]
    assert lease.keys() >= {"trial", "owner", "device", "age", "left", "position", "redone", "takings", "note"}
    assert (lease["trial"], lease["owner"], lease["device"]) == (0, str(Worker()), "cpu")
    assert 0 <= lease["age"] < 60 - lease["left"] + 1
    assert (document["redone"], document["control"]) == (1.5, "pause")


@pytest.mark.postgres
def test_the_time_of_a_waiting_trial_does_not_grow(bench: Bench) -> None:
    bench.claim()
    with bench.db.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE trials SET state = 'WAITING', datetime_start = now() - interval '1 day'")
        connection.exec_driver_sql("UPDATE hpo_leases SET state = 'free', renewed_at = now() - interval '23 hours'")
    assert 3500 < StudyReader(bench.db, bench.study)().trials[0].seconds < 3700


@pytest.mark.postgres
def test_the_status_of_a_finished_trial_is_computed_once(bench: Bench) -> None:
    bench.study.tell(bench.study.ask(), 0.5)
    look = StudyReader(bench.db, bench.study)
    assert look().trials[0] is look().trials[0]


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({}, "renewed 3s ago"),
        ({"left": -40.0}, "expired 40s ago: the next worker takes it over"),
        ({"attempts": 3, "note": "waits for room"}, "renewed 3s ago, claimed 3 times, waits for room"),
    ],
)
def test_a_lease_in_words(more: dict[str, object], text: str) -> None:
    assert lease_state(lease_info(0, **more)) == text


def test_workers_are_drawn_within_a_hundred_columns() -> None:
    lines = [line(0, "running"), line(1, "running")]
    long_name = "a-pod-with-a-name-as-kubernetes-makes-them-7d9f8b6c5-x2x9z:4711"
    seen = replace(status(*lines), leases=(lease_info(0, attempts=2), lease_info(1, owner=long_name, left=-40.0)))
    rows = drawn(seen, 100).splitlines()
    assert "    0  node-7:4711                       cuda:1  renewed 3s ago, claimed 2 times" in [
        r.rstrip() for r in rows
    ]
    assert any("expired 40s ago: the next worker takes it over" in row for row in rows)
    assert max(len(row) for row in rows) <= 100


def test_workers_take_their_lines_from_the_finished_trials() -> None:
    lines = [line(n) for n in range(20)] + [line(20, "running"), line(21, "running")]
    alone = status(*lines)
    with_leases = replace(alone, leases=(lease_info(20), lease_info(21)))
    assert len(drawn(with_leases).splitlines()) <= len(drawn(alone).splitlines()) + 1


@pytest.mark.parametrize(
    ("control", "expected"), [(Control.RUN, None), (Control.PAUSE, "paused: "), (Control.STOP, "stopped: ")]
)
def test_a_pause_and_a_stop_are_drawn(control: Control, expected: str | None) -> None:
    text = drawn(replace(status(line(0)), control=control, redone=2.25))
    assert ("`hpo resume --study cells`" in text) is (expected is not None)
    assert expected is None or expected in text
    assert "2.2 epochs were trained again after interruptions" in text
    assert "trained again" not in drawn(status(line(0)))


@pytest.mark.postgres
def test_what_was_left_out_is_drawn_and_in_the_document(bench: Bench) -> None:
    changes = DataChanges({"a.png": "odd", "b.png": "copy"}, source="--clean", digest="1")
    seen = replace(status(line(0)), changes=changes)
    assert "left out by --clean: 2 images: 1 copy, 1 odd" in drawn(seen)
    assert seen.to_dict()["changes"]["left_out"] == {"odd": 1, "copy": 1}
    assert status(line(0)).to_dict()["changes"] is None
    study = bench.study
    spec = read_spec(study)
    write_spec(study, spec.model_copy(update={"data": {**spec.data, "findings": changes.to_json()}}))
    assert StudyReader(bench.db, study)().changes == changes


@pytest.mark.parametrize("width", [60, 80, 200])
def test_a_narrow_terminal_loses_parameters_first(width: int) -> None:
    best = line(3, value=0.98765)
    text = drawn(status(best, best=best), width)
    assert "complete ★" in text
    assert "0.9877" in text
    assert "1m15s" in text
    assert ("learning_rate=0.00123" in text.splitlines()[3]) == (width >= 80)


def test_an_empty_study_and_a_passed_deadline_are_drawn() -> None:
    text = drawn(status(limits=Limits(trials=5, deadline=NOW - timedelta(seconds=1))))
    assert "no trial has started yet" in text
    assert "no complete trial yet" in text
    assert "time is up" in text


def test_a_finished_trial_as_one_line() -> None:
    best = line(1, value=0.9)
    failed = line(2, "failed", None, reason="out of memory", epoch=0)
    assert plain_line(status(best, failed, best=best), failed) == (
        "trial 2 failed after 0 epochs, no accuracy, 1m15s; 2 of 20 trials finished, best complete trial 1: 0.9000; "
        "out of memory"
    )


def test_the_value_of_a_pruned_trial_is_named_as_its_best_epoch() -> None:
    best = line(0, value=0.1667)
    pruned = replace(line(1, "pruned", 0.2, epoch=4), curve=[0.2, 0.1, 0.1, 0.1])
    seen = status(best, pruned, best=best)
    assert plain_line(seen, pruned).startswith(
        "trial 1 pruned after 4 epochs, best accuracy 0.2000 in epoch 1, 1m15s; 2 of 20 trials finished, "
        "best complete trial 0: 0.1667"
    )
    assert "trial 1 had 0.2000 when it was pruned; only complete trials are ranked" in " ".join(drawn(seen).split())


def test_more_trials_than_the_limit_are_not_counted_out_of_it() -> None:
    seen = status(*(line(n) for n in range(3)), limits=Limits(trials=2))
    assert "3 trials, more than the limit of 2" in drawn(seen)


@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy"])
def test_a_terminal_of_80_columns_shows_the_curves_of_long_trials(metric: str) -> None:
    curve = [n / 60 for n in range(60)]
    lines = [replace(line(n, value=curve[-1], epoch=60), epochs=60, curve=curve, seconds=7500.0) for n in range(12)]
    rows = drawn(replace(status(*lines, best=lines[3]), metric=metric), 80).splitlines()
    assert all(len(row) <= 80 for row in rows)
    assert sparkline(curve) in "\n".join(rows)


@pytest.mark.parametrize(("seconds", "text"), [(0, "0s"), (59.9, "59s"), (187, "3m07s"), (7500, "2h05m")])
def test_spans_of_time_are_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_curve_is_drawn_from_its_lowest_to_its_highest() -> None:
    assert sparkline([0.1, 0.5, 0.9]) == "▁▄█"
    assert sparkline([0.5]) == ""
    assert sparkline([0.5, 0.5]) == "▁▁"
    assert sparkline([0.1, float("nan"), 0.9]) == "▁█"
