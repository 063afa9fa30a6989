"""Absolute paths stay on the machine: what is given away names a file or a folder, not where it lay.

A bundle, a report, the files of a comparison go to other people; `/home/ada/secret-project/w.safetensors` says who made
them and where, and helps none of them. Relative paths and URLs stay as they were typed.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any


def public_path(path: str | Path) -> str:
    """The last part of an absolute path, of this system or of Windows; everything else as it is."""
    text = str(path)
    for kind in (PurePosixPath, PureWindowsPath):
        if kind(text).is_absolute() and kind(text).name:
            return kind(text).name
    return text


def public_path_from_here(path: str | Path) -> str:
    """A path below the current folder from there on, so that it can be used again; else as `public_path` gives it."""
    if Path(path).is_absolute() and Path(path).is_relative_to(Path.cwd()):
        return str(Path(path).relative_to(Path.cwd()))
    return public_path(path)


def public_command(command: str) -> str:
    """A command with every absolute path in its words by its name, behind a `=` too; what is no command stays."""
    try:
        words = shlex.split(command)
    except ValueError:
        return command
    parts = [word.rpartition("=") for word in words]
    return shlex.join(f"{before}{sign}{public_path(value)}" for before, sign, value in parts)


def public_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a configuration, the weights file by its name alone."""
    values = dict(config)
    if values.get("weights"):
        values["weights"] = public_path(values["weights"])
    return values
