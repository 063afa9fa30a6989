"""What the documents say is held against the code: commands, options, links, files, examples."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from hpo.cli import COMMANDS, main
from search_spaces import load_space

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def command(name: str) -> click.Command:
    found = main.get_command(click.Context(main), name)  # type: ignore[attr-defined]
    assert isinstance(found, click.Command)
    return found


def called() -> Iterator[list[str]]:
    """Every `hpo …` line of the README's code blocks, as words, without its comment."""
    for line in README.splitlines():
        if line.startswith("    hpo "):
            yield shlex.split(line.split("  #")[0])[1:]


def block(language: str) -> str:
    match = re.search(rf"```{language}\n(.*?)```", README, re.DOTALL)
    assert match
    return match.group(1)


def test_every_command_is_in_the_readme() -> None:
    table = set(re.findall(r"^\| `hpo ([a-z-]+)", README, re.MULTILINE))
    assert table == set(COMMANDS)


def test_every_call_in_the_readme_is_one_that_the_command_line_takes() -> None:
    calls = list(called())
    assert len(calls) >= 8
    for name, *arguments in calls:
        command(name).make_context(name, list(arguments), resilient_parsing=False)


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_explains_itself_and_each_of_its_options(name: str) -> None:
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0
    explained = command(name)
    assert explained.help
    assert all(option.help for option in explained.params if isinstance(option, click.Option))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_pictures_are_there(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_the_space_in_the_readme_can_be_loaded(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(block("yaml"))
    space = load_space(str(file))
    assert space.fixed["backbone"] == "convnext_tiny"
    assert {"optimiser", "learning_rate", "unfreeze_depth"} <= set(space.open)
    assert space.enqueue_points()[0]["learning_rate[adamw]"] == 1e-3


def test_the_settings_in_the_readme_are_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hpo.cli.config_file import default_map

    (tmp_path / "hpo.toml").write_text(block("toml"))
    monkeypatch.chdir(tmp_path)
    values = default_map(main, click.Context(main))  # type: ignore[arg-type]
    assert values["run"]["fixed"] == ["epochs=8", "image_size=128"]
    assert values["status"]["study"] == "cells"
    assert tomllib.loads(block("toml"))["run"]["space"] == "standard"
