from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from hpo.cli.command_line import command_line


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def command(told: list[str]) -> click.Command:
    @click.command("try")
    @click.argument("things", nargs=-1)
    @click.option("--data", type=Path)
    @click.option("--set", "fixed", multiple=True)
    @click.option("--epochs", type=int, envvar="TRY_EPOCHS")
    @click.option("--no-test", is_flag=True)
    @click.option("--isolate/--no-isolate", default=None)
    @click.option("--storage", envvar="TRY_STORAGE")
    @click.pass_context
    def run(ctx: click.Context, **_: object) -> None:
        told.append(command_line(ctx))

    return run


@pytest.mark.parametrize(
    "text",
    [
        "hpo try",
        "hpo try a 'b c' --data 'my cells' --set epochs=1 --set x=2 --epochs 3 --no-test --no-isolate",
        "hpo try --isolate",
    ],
)
def test_it_is_the_command_again(command: click.Command, told: list[str], text: str) -> None:
    import shlex

    assert CliRunner().invoke(command, shlex.split(text)[2:]).exit_code == 0
    assert told == [text]


def test_passwords_and_surroundings_are_left_out(command: click.Command, told: list[str]) -> None:
    CliRunner().invoke(command, ["--storage", "postgresql://me:Secret-1@host/db", "x"], env={"TRY_EPOCHS": "3"})
    assert told == ["hpo try x"]
