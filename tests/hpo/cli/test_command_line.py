from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from hpo.cli import main
from hpo.cli.options import Duration, command_line


@pytest.fixture
def commands() -> list[str]:
    return []


@pytest.fixture
def command(commands: list[str]) -> click.Command:
    @click.command("try")
    @click.argument("things", nargs=-1)
    @click.option("--data", type=Path)
    @click.option("--set", "fixed", multiple=True)
    @click.option("--epochs", type=int, envvar="TRY_EPOCHS")
    @click.option("--no-test", is_flag=True)
    @click.option("--isolate/--no-isolate", default=None)
    @click.option("--storage", envvar="TRY_STORAGE")
    @click.option("--lease", type=Duration(), default="2m")
    @click.option("--debug", envvar="TRY_DEBUG", is_flag=True, expose_value=False)
    @click.option("--quiet", envvar="TRY_QUIET", is_flag=True)
    @click.pass_context
    def run(ctx: click.Context, **_: object) -> None:
        commands.append(command_line(ctx))

    return run


@pytest.mark.parametrize(
    "text",
    [
        "hpo try",
        "hpo try a 'b c' --data 'my cells' --set epochs=1 --set x=2 --epochs 3 --no-test --no-isolate",
        "hpo try --isolate",
        "hpo try --lease 90s",
    ],
)
def test_the_command_line_is_that_of_the_user(command: click.Command, commands: list[str], text: str) -> None:
    import shlex

    assert CliRunner().invoke(command, shlex.split(text)[2:]).exit_code == 0
    assert commands == [text]


URL = "postgresql://me:Secret-1@host/db"


@pytest.mark.parametrize("given", [{"args": ["--storage", URL]}, {"env": {"TRY_STORAGE": URL}}])
def test_passwords_are_left_out(command: click.Command, commands: list[str], given: dict[str, Any]) -> None:
    assert CliRunner().invoke(command, **given).exit_code == 0
    assert commands == ["hpo try"]


def test_values_from_the_environment_and_hpo_toml_are_included(command: click.Command, commands: list[str]) -> None:
    filed = {"data": "cells", "fixed": ["x=2"], "storage": URL}
    ended = CliRunner().invoke(command, ["y"], env={"TRY_EPOCHS": "3", "TRY_QUIET": "0"}, default_map=filed)
    assert ended.exit_code == 0, ended.exception
    assert commands == ["hpo try y --data cells --set x=2 --epochs 3"]


def test_global_switches_are_left_out(command: click.Command, commands: list[str]) -> None:
    assert CliRunner().invoke(command, ["--debug"]).exit_code == 0
    assert commands == ["hpo try"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("predict b i --threads 0", "hpo: --threads: 0 is not in the range x>=1 (see `hpo predict --help`)"),
        ("evaluate b --data d --split x", "hpo: --split: 'x' is not one of 'train', 'val', 'test' (see `hpo evaluate"),
        ("trials", "hpo: missing argument 'STUDY' (see `hpo trials --help`)"),
        ("spaces --jsn", "hpo: no such option '--jsn'"),
        ("show nothing", "hpo: no such command 'nothing' (see `hpo show --help`)"),
        ("nothing", "hpo: no such command 'nothing' (see `hpo --help`)"),
        ("--nothing", "hpo: no such option '--nothing' (see `hpo --help`)"),
    ],
)
def test_a_wrong_option_is_explained_in_one_line(arguments: str, expected: str) -> None:
    result = CliRunner().invoke(main, arguments.split(), env={"HPO_STUDY": None})
    (line,) = result.stderr.splitlines()
    assert (result.exit_code, result.stdout) == (2, "")
    assert line.startswith(expected)
