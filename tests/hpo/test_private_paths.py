"""What leaves the machine names files and folders, not where they lay."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from hpo.private_paths import command_without_places, place_from_here, place_name, shared_config


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/home/ada/w.safetensors", "w.safetensors"),
        (Path("/srv/data set"), "data set"),
        ("C:\\Users\\ada\\w.pth", "w.pth"),
        ("\\\\host\\share\\w.pth", "w.pth"),
        ("weights/w.pth", "weights/w.pth"),
        ("../w.pth", "../w.pth"),
        ("s3://bucket/best", "s3://bucket/best"),
        ("postgresql://host/db", "postgresql://host/db"),
        ("/", "/"),
        ("", ""),
    ],
)
def test_an_absolute_path_becomes_its_last_part(path: str | Path, name: str) -> None:
    assert place_name(path) == name


def test_a_path_below_the_current_folder_can_be_used_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert place_from_here(tmp_path / ".hpo" / "a b") == ".hpo/a b"
    assert place_from_here(Path("best")) == "best"
    assert place_from_here("/srv/best") == "best"
    assert place_from_here("s3://bucket/best") == "s3://bucket/best"


def test_a_command_keeps_its_words_and_loses_its_places() -> None:
    words = ["hpo", "compare", "a", "/home/ada/my best", "--data", "/data/x", "--set", "weights=/w/a.pth", "--out=/o/t"]
    told = command_without_places(shlex.join(words))
    assert shlex.split(told) == ["hpo", "compare", "a", "my best", "--data", "x", "--set", "weights=a.pth", "--out=t"]
    assert command_without_places("no 'command") == "no 'command"


def test_a_configuration_names_its_weights_alone() -> None:
    assert shared_config({"weights": "/home/ada/w.pth", "epochs": 3}) == {"weights": "w.pth", "epochs": 3}
    assert shared_config({"weights": None}) == {"weights": None}
    assert shared_config({}) == {}
