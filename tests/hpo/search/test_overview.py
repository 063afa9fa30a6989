"""How a study is read and drawn."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from optuna.trial import TrialState
from rich.console import Console

from hpo.cli.view import clock, draw, plain_line, sparkline
from hpo.search.overview import Overview, Survey, TrialLine
from storage import Limits, requeue
from tests.hpo.search.conftest import Bench

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def line(number: int, state: str = "complete", value: float | None = 0.5, **more: object) -> TrialLine:
    whole = TrialLine(
        number=number, state=state, value=value, epoch=2, epochs=4, curve=(0.1, 0.5), params={"learning_rate": 0.00123},
        seconds=75.0, reason=None, worker="host:1",
    )  # fmt: skip
    return replace(whole, **more)  # type: ignore[arg-type]


def overview(*lines: TrialLine, best: TrialLine | None = None, limits: Limits | None = None) -> Overview:
    return Overview("cells", "accuracy", "quick", limits or Limits(trials=20), NOW, lines, best)


def drawn(shown: Overview, width: int = 120) -> str:
    console = Console(width=width, record=True, quiet=False, file=None, force_terminal=False)
    with console.capture() as capture:
        console.print(draw(shown))
    return capture.get()


@pytest.mark.postgres
def test_a_study_is_read_as_it_stands(bench: Bench) -> None:
    first, second, third = (bench.study.ask() for _ in range(3))
    rate = first.suggest_float("learning_rate", 1e-3, 1e-2, log=True)
    for step, value in enumerate((0.3, 0.8, 0.6), start=1):
        first.report(value, step=step)
    bench.study.tell(first, 0.8)
    second.set_user_attr("reason", "the loss is NaN")
    bench.study.tell(second, state=TrialState.FAIL)
    requeue(bench.study, third)
    running = bench.study.ask()

    look = Survey(bench.db, bench.study)
    seen = look()
    assert bench.study.metric_names == [seen.metric], "the dashboard's axes are named"
    assert seen.counts == {
        "asked": 3, "finished": 2, "complete": 1, "pruned": 0, "failed": 1, "running": 1, "waiting": 0,
    }  # fmt: skip
    document = json.loads(json.dumps(seen.to_dict(), allow_nan=False))
    assert document["best"] == {"trial": 0, "value": 0.8, "params": {"learning_rate": rate}}
    assert document["failures"] == [{"trial": 1, "reason": "the loss is NaN"}]
    assert document["limit"] == {"trials": 10, "deadline": None}
    assert seen.lines[0].curve == [0.3, 0.8, 0.6]
    bench.study.tell(running, 0.9)
    assert look().best == look().lines[2], "a second look sees what has finished meanwhile"


@pytest.mark.postgres
def test_times_are_right_wherever_the_reader_is(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.study.ask()
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        (seen,) = [one for one in Survey(bench.db, bench.study)().lines if one.state == "running"]
        assert 0 <= seen.seconds < 60
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("finished", [1, 4, 8, 11, 12])
def test_every_trial_is_drawn_where_there_is_room(finished: int) -> None:
    text = drawn(overview(*(line(n) for n in range(finished))))
    assert [f"{n:5}  complete" in text for n in range(finished)] == [True] * finished


def test_the_running_trials_and_the_newest_others_are_drawn_where_there_is_not() -> None:
    lines = [line(0, "running"), *(line(n) for n in range(1, 40)), line(40, "waiting", None, epoch=0)]
    text = drawn(overview(*lines))
    rows = [int(row.split()[0]) for row in text.splitlines() if row[:5].strip().isdigit()]
    assert rows == [0, *range(29, 40)]


@pytest.mark.parametrize("width", [60, 80, 200])
def test_a_narrow_terminal_loses_parameters_first(width: int) -> None:
    best = line(3, value=0.98765)
    text = drawn(overview(best, best=best), width)
    assert "complete ★" in text
    assert "0.9877" in text
    assert "1m15s" in text
    assert ("learning_rate=0.00123" in text.splitlines()[3]) == (width >= 80)


def test_an_empty_study_and_a_passed_deadline_are_said() -> None:
    text = drawn(overview(limits=Limits(trials=5, deadline=NOW - timedelta(seconds=1))))
    assert "no trial has started yet" in text
    assert "no complete trial yet" in text
    assert "time is up" in text


def test_a_finished_trial_as_one_line() -> None:
    best = line(1, value=0.9)
    failed = line(2, "failed", None, reason="out of memory", epoch=0)
    assert plain_line(overview(best, failed, best=best), failed) == (
        "trial 2 failed, accuracy - after 0 epochs, 1m15s; 2 of 20 finished, best 0.9000 (trial 1); out of memory"
    )


@pytest.mark.parametrize(("seconds", "text"), [(0, "0s"), (59.9, "59s"), (187, "3m07s"), (7500, "2h05m")])
def test_spans_of_time_are_short(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_a_curve_is_drawn_from_its_lowest_to_its_highest() -> None:
    assert sparkline([0.1, 0.5, 0.9]) == "▁▄█"
    assert sparkline([0.5]) == ""
    assert sparkline([0.5, 0.5]) == "▁▁"
    assert sparkline([0.1, float("nan"), 0.9]) == "▁█"
