"""Files that are given to others name files and folders, without their paths."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from hpo.private_paths import public_command, public_config, public_path, public_path_from_here


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
    assert public_path(path) == name


def test_a_path_below_the_current_folder_can_be_used_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert public_path_from_here(tmp_path / ".hpo" / "a b") == ".hpo/a b"
    assert public_path_from_here(Path("best")) == "best"
    assert public_path_from_here("/srv/best") == "best"
    assert public_path_from_here("s3://bucket/best") == "s3://bucket/best"


def test_a_command_keeps_its_words_and_loses_its_places() -> None:
    words = ["hpo", "compare", "a", "/home/ada/my best", "--data", "/data/x", "--set", "weights=/w/a.pth", "--out=/o/t"]
    public = public_command(shlex.join(words))
    assert shlex.split(public) == ["hpo", "compare", "a", "my best", "--data", "x", "--set", "weights=a.pth", "--out=t"]
    assert public_command("no 'command") == "no 'command"


def test_a_configuration_keeps_only_the_name_of_its_weights() -> None:
    assert public_config({"weights": "/home/ada/w.pth", "epochs": 3}) == {"weights": "w.pth", "epochs": 3}
    assert public_config({"weights": None}) == {"weights": None}
    assert public_config({}) == {}
