"""docs/seeds.md against the code: its presets, its commands, and every parameter count of its table."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path

import click
import pytest
import timm

from hpo.cli import main
from search_spaces import TrialConfig, catalog

ROOT = Path(__file__).parents[3]
DOCUMENT = (ROOT / "docs" / "seeds.md").read_text(encoding="utf-8")
SPACES = {space.name: space for space in catalog()}
GENERAL = {"quick", "robust", "standard", "thorough"}


def calls() -> list[list[str]]:
    """Return every command of the document: its indented lines, and quotes in its tables."""
    found = re.findall(r"^    hpo (.*)$", DOCUMENT, re.MULTILINE) + re.findall(r"`hpo ([^`]*DATA[^`]*)`", DOCUMENT)
    return [shlex.split(call) for call in found]


def test_every_preset_is_described() -> None:
    assert [name for name in SPACES.keys() - GENERAL if f"`{name}`" not in DOCUMENT] == []


def test_every_command_names_existing_spaces_and_backbones() -> None:
    named = [word for call in calls() for word in call if word.partition(":")[0] in SPACES]
    assert len(named) >= 15
    for word in named:
        name, _, settings = word.partition(":")
        changes = dict(setting.split("=") for setting in settings.split(",") if setting)
        assert {changes[key] for key in changes if key == "backbone"} <= set(timm.list_pretrained())
        assert SPACES[name].with_fixed(changes).fixed.items() >= changes.items()


@pytest.mark.parametrize("call", calls(), ids=" ".join)
def test_every_command_is_accepted_by_the_command_line(call: list[str], tmp_path: Path) -> None:
    command = main.get_command(click.Context(main), call[0])  # type: ignore[attr-defined]
    there = {"DATA": tmp_path, "BUNDLE": tmp_path, "FILE": tmp_path / "weights", "DIR": tmp_path / "out"}
    (tmp_path / "weights").touch()
    context = command.make_context(call[0], [str(there.get(word, word)) for word in call[1:]])
    assert context.params or isinstance(command, click.Group)


def test_the_table_equals_the_output_of_the_script() -> None:
    spec = importlib.util.spec_from_file_location("sizes", ROOT / "scripts" / "sizes.py")
    assert spec is not None
    assert spec.loader is not None
    sizes = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sizes)
    rows = [sizes.row(space.name, config, 8) for space in SPACES.values() for config in sizes.recipes(space)]
    assert len(rows) >= 13
    assert [row for row in rows if row not in DOCUMENT] == []


@pytest.mark.parametrize(
    "setting", ["normalisation", "balanced_sampling", "oversample_to", "background", "l2", "precision"]
)
def test_every_setting_is_a_field(setting: str) -> None:
    assert f"`{setting}" in DOCUMENT or f"{setting}=" in DOCUMENT
    assert setting in TrialConfig.model_fields
