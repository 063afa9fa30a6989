"""Every command succeeds on terminals and pipes that are not UTF-8, narrow, plain or closed."""

from __future__ import annotations

import io
import json
import signal
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import optuna
import pytest
from rich.console import Console
from rich.text import Text

from hpo.cli import terminal
from hpo.cli.status import draw
from hpo.search.status import StudyStatus, TrialStatus
from storage import LeaseInfo, Limits

NOT_UTF8 = ("latin-1", "cp1252", "ascii", "iso8859-15", "koi8-r", "shift_jis")
SHOWN = "★▁▂▃▄▅▆▇█━╸╺├└│─…–−±×≤°µ«»Σαλ 中 \udce9"


@pytest.fixture
def study(bare_study: optuna.Study) -> optuna.Study:
    """Return `bare` with a best trial, whose curve is drawn, and a metric without a finite value."""
    for value in (0.25, 0.75):
        trial = bare_study.ask()
        trial.suggest_float("learning_rate", 1e-3, 1e-2)
        for step in (1, 2, 3):
            trial.report(value * step / 3, step)
        bare_study.tell(trial, value)
    return bare_study


@pytest.mark.parametrize("encoding", [*NOT_UTF8, "utf-8"])
def test_every_character_can_be_written(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    terminal.prepare_streams()
    Console(file=stream, width=200).print(Text(SHOWN))
    stream.flush()
    written = stream.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
    if encoding == "ascii":
        assert written.rstrip() == '*_.-:=+*#---++|-.--+-x<=degu""\\u03a3\\u03b1\\u03bb \\u4e2d \\udce9'
    if encoding == "utf-8":
        assert written.rstrip() == SHOWN.replace("\udce9", "\\udce9")


@pytest.mark.parametrize("encoding", NOT_UTF8)
@pytest.mark.parametrize("arguments", [["--help"], ["spaces"], ["spaces", "standard"], ["status", "--study", "bare"]])
def test_commands_succeed_where_the_pipe_is_not_utf_8(
    command: Any, study: optuna.Study, encoding: str, arguments: list[str]
) -> None:
    command.environment.update(PYTHONIOENCODING=encoding, PYTHONUTF8="0")
    with command.start(*arguments, encoding=encoding) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    if arguments[0] == "status":
        assert ("complete ★" if encoding == "shift_jis" else "complete *") in out


def test_a_terminal_without_utf_8_or_room_shows_the_study(
    in_terminal: Callable[..., Any], command: Any, study: optuna.Study
) -> None:
    for encoding, columns in ("ascii", 40), ("latin-1", 80), ("utf-8", 40):
        variables = {**command.environment, "PYTHONIOENCODING": encoding}
        shown = in_terminal("status", "--study", "bare", columns=columns, **variables)
        assert shown.code == 0
        lines = [Text.from_ansi(line).plain for line in shown.text.splitlines()]
        assert max(map(len, lines)) <= columns
        assert any("complete" in line and "0.7500" in line for line in lines)


def test_a_dumb_terminal_gets_no_control_codes(
    in_terminal: Callable[..., Any], command: Any, study: optuna.Study
) -> None:
    shown = in_terminal("status", "--study", "bare", **command.environment | {"TERM": "dumb"})
    assert shown.code == 0
    assert "\033" not in shown.text


def test_ctrl_c_ends_watching_without_an_error(command: Any, study: optuna.Study) -> None:
    with command.start("status", "--study", "bare", "--watch") as process:
        assert process.stdout.readline(), "it has drawn once"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")


@pytest.mark.parametrize(
    "arguments", [["status", "--study", "bare"], ["status", "--study", "bare", "--json"], ["spaces"]]
)
def test_a_reader_that_leaves_early_is_no_error(command: Any, study: optuna.Study, arguments: list[str]) -> None:
    with command.start(*arguments) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode in (0, 1)


def test_json_has_null_for_what_is_not_finite(command: Any, bare_study: optuna.Study) -> None:
    """JSON knows no NaN and no Infinity: a strict reader would refuse the document."""
    trial = bare_study.ask()
    trial.suggest_float("learning_rate", 1e-3, 1e-2)
    trial.report(float("inf"), 1)
    bare_study.tell(trial, float("inf"))
    running = bare_study.ask()
    running.report(float("-inf"), 1)
    printed = command("status", "--study", "bare", "--json")
    assert printed.returncode == 0, printed.stderr
    document = json.loads(printed.stdout, parse_constant=pytest.fail)
    assert document["best"]["value"] is None
    assert document["running"][0]["curve"] == [None]


NOW = datetime(2026, 11, 1, tzinfo=UTC)


def status(name: str, metric: str) -> StudyStatus:
    states = ("complete", "pruned", "failed", "running", "waiting")
    lines = [
        TrialStatus(n, state, 0.9812, n + 1, 12, [0.5, 0.9, 0.98], {"learning_rate": 0.0031}, 187.0 * n, None, None)
        for n, state in enumerate(states)
    ]
    lease = LeaseInfo(
        number=3, state="held", owner="worker.example.org:123456", device="cuda:0", claimed_at=NOW, age=3, left=100,
        deaths=0, position=1, redone=0, attempts=2, note="waits for room: 12 GB",
    )  # fmt: skip
    limits = Limits(trials=5000, deadline=NOW + timedelta(hours=1))
    return StudyStatus(name, metric, "quick", limits, NOW, lines, lines[0], [lease])


@pytest.mark.parametrize("columns", [40, 60, 80, 120, 200])
@pytest.mark.parametrize("name", ["cells", "n" * 120, "two words " * 11 + "end"])
@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy"])
def test_the_study_keeps_its_figures_at_every_width(columns: int, name: str, metric: str) -> None:
    console = Console(width=columns, file=io.StringIO(), record=True)
    console.print(draw(status(name, metric)))
    text = console.export_text()
    assert all(len(line) <= columns for line in text.splitlines())
    flat = " ".join(text.split())
    assert name.replace(" ", "") in flat.replace(" ", "")
    assert all(f"1 {state}" in flat for state in ("complete", "pruned", "failed", "running", "waiting"))
    assert " 3 of 5000 trials" in f" {flat}"
    assert "1h00m left" in flat
    assert flat.count("0.9812") == 6
    assert "worker.example.org:123456" in flat or columns < 80
