"""A command in a message can be pasted: a shell keeps every name, and the command line accepts it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo.cli import main
from hpo.cli.control import consequence, held_line
from hpo.cli.status import draw
from hpo.cli.watching import report_stop
from hpo.doctor.study import check_control, check_leases
from hpo.hints import hint
from hpo.report.reproduce import bundle_recipe, delivery, joining
from storage import Control
from tests.hpo.search.test_status import lease_info, line, status

ROOT = Path(__file__).parents[2]
NAMES = [
    "two words; rm -rf ~", "it's", 'say "hi"', "$HOME", "$(id)", "a&b|c>d", "*", "~", "#1", "-x", "--out", "ünï ★ 中",
    "back\\slash", "a\\", "{x,y}", "!!", "%TEMP%", "=x", "cells",
]  # fmt: skip
printable = st.text(min_size=1).filter(lambda text: text.isprintable() and text == text.strip() and "`" not in text)


def parsed(command: str) -> dict[str, object]:
    """Return the parameters that the command line reads out of a pasted command."""
    program, name, *words = shlex.split(command)
    assert program == "hpo"
    found = main.get_command(click.Context(main), name)  # type: ignore[attr-defined]
    return dict(found.make_context(name, words).params)


@given(printable)
def test_every_hint_keeps_the_name(name: str) -> None:
    assert parsed(hint("resume", study=name))["study"] == name
    assert parsed(hint("export-best", study=name, trial=3, out="best/"))["study"] == name
    assert parsed(hint("report", name, data="DATA"))["subject"] == name


@pytest.mark.parametrize("name", NAMES)
def test_every_message_with_a_command_names_the_study_as_a_shell_needs_it(name: str) -> None:
    for message in messages(name):
        commands = re.findall(r"`(hpo [^`]*--[^`]*)`", message) or re.findall(r"(hpo [a-z-]+ .*--.*)", message)
        assert commands, message
        for command in commands:
            assert parsed(command)["study"] == name


def messages(name: str) -> Iterator[str]:
    seen = status(line(0))
    paused = SimpleNamespace(study=name, control="pause")
    yield stopped_line(paused, stopping=True)
    yield stopped_line(SimpleNamespace(study=name, control="stop"), stopping=False)
    yield from (consequence(name, "run", word, []) for word in ("pause", "stop"))
    yield from (check_control(name, control).fix for control in (Control.PAUSE, Control.STOP))
    yield check_leases(name, [], {1}).fix
    yield held_line(name, lease_info(0, left=-40.0))
    yield from (step.text for step in delivery(name, 1)[:1])
    yield joining(name, soup=True).text
    assert draw(seen)


def stopped_line(seen: SimpleNamespace, *, stopping: bool) -> str:
    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(click, "echo", lambda text, **_: lines.append(text))
        report_stop(seen, SimpleNamespace(died=[], stopping=stopping))  # type: ignore[arg-type]
    return lines[-1]


@pytest.mark.parametrize("name", NAMES)
def test_a_bundle_of_any_name_is_named_as_a_shell_needs_it(name: str) -> None:
    for step in bundle_recipe(name, retrained=False).commands:
        assert str(parsed(step.text)["bundle"]) == str(Path(name).expanduser())


def test_no_command_is_put_together_elsewhere() -> None:
    """A shell would run an unquoted name as a command of its own."""
    put_together = re.compile(r"`hpo [a-z-]+ [^`]*\{|--(study|trial|owner) \{(?!shlex)")
    found = [
        f"{path.relative_to(ROOT)}: {text.strip()}"
        for package in ("hpo", "storage")
        for path in (ROOT / package).rglob("*.py")
        for text in path.read_text(encoding="utf-8").splitlines()
        if put_together.search(text) and path.name not in ("hints.py", "command_line.py")
    ]
    assert not found
