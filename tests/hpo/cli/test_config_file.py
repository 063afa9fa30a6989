"""hpo.toml and the order: option, environment, file, default."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from hpo.cli import Commands, main


@pytest.fixture
def options(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, object]:
    """Return a command `status` that only records its options."""
    values: dict[str, object] = {}

    @click.command("status")
    @click.option("--study", envvar="HPO_STUDY", default="by default")
    def note(study: str) -> None:
        values["study"] = study

    monkeypatch.setattr(Commands, "get_command", lambda *_: note)
    monkeypatch.setattr(Commands, "list_commands", lambda *_: ["status"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HPO_STUDY", raising=False)
    return values


def call(*arguments: str) -> int:
    return CliRunner().invoke(main, ["status", *arguments]).exit_code


def test_option_beats_environment_beats_file_beats_default(
    options: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    call()
    assert options["study"] == "by default"
    Path("hpo.toml").write_text('study = "from the file"')
    call()
    assert options["study"] == "from the file"
    Path("hpo.toml").write_text('study = "for all"\n[status]\nstudy = "for status"')
    call()
    assert options["study"] == "for status"
    monkeypatch.setenv("HPO_STUDY", "from the environment")
    call()
    assert options["study"] == "from the environment"
    call("--study", "from the option")
    assert options["study"] == "from the option"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("studdy = 1", "hpo.toml: studdy: no command has such an option"),
        ("[statuss]\nstudy = 1", "hpo.toml: [statuss]: no such command"),
        ("[status]\ntrials = 1", "hpo.toml: [status] trials: `hpo status` has no such option"),
        ("study = ", "hpo.toml is not valid TOML"),
    ],
)
def test_unknown_keys_of_the_file_are_refused(options: dict[str, object], text: str, message: str) -> None:
    Path("hpo.toml").write_text(text)
    result = CliRunner().invoke(main, ["status"])
    assert result.exit_code == 2
    assert message in result.stderr
    assert not options


def test_a_file_that_is_named_must_be_there(options: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HPO_CONFIG", "elsewhere.toml")
    result = CliRunner().invoke(main, ["status"])
    assert result.exit_code == 2
    assert "HPO_CONFIG names elsewhere.toml" in result.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[run]\ntrials = true", "trials is True, but must be a text or a number"),
        ("[run]\ntrials = 2026-01-01", "trials is datetime.date"),
        ('[run]\nstudy = ["a"]', r"study is \['a'\], but must be a text or a number"),
        ("[run]\nset = 5", r"set is \[5\], but must be a text or a list of texts"),
        ('[run]\nset = [["epochs=8"]]', "set is .* but must be a text or a list of texts"),
        ('debug = "yes"', "debug is 'yes', but must be true or false"),
        ("[run]\nisolate = 1", "isolate is 1, but must be true or false"),
        ("run = 5", "run: no command has such an option"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused(
    text: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("hpo.toml").write_text(text)
    result = CliRunner().invoke(main, ["spaces"])
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert re.search(f"hpo.toml: {message}", result.stderr)
