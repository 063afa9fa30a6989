"""Absolute paths stay on the machine: what is given away names a file or a folder, not where it lay.

A bundle, a report, the files of a comparison go to other people; `/home/ada/secret-project/w.safetensors` says who made
them and where, and helps none of them. Relative paths and URLs stay as they were typed.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any


def place_name(path: str | Path) -> str:
    """The last part of an absolute path, of this system or of Windows; everything else as it is."""
    text = str(path)
    for kind in (PurePosixPath, PureWindowsPath):
        if kind(text).is_absolute() and kind(text).name:
            return kind(text).name
    return text


def place_from_here(path: str | Path) -> str:
    """A path below the current folder from there on, so that it can be used again; else as `place_name` gives it."""
    if Path(path).is_absolute() and Path(path).is_relative_to(Path.cwd()):
        return str(Path(path).relative_to(Path.cwd()))
    return place_name(path)


def command_without_places(command: str) -> str:
    """A command with every absolute path in its words by its name, behind a `=` too; what is no command stays."""
    try:
        words = shlex.split(command)
    except ValueError:
        return command
    parts = [word.rpartition("=") for word in words]
    return shlex.join(f"{before}{sign}{place_name(value)}" for before, sign, value in parts)


def shared_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a configuration, the weights file by its name alone."""
    values = dict(config)
    if values.get("weights"):
        values["weights"] = place_name(values["weights"])
    return values
