"""Paths in files that are given to others: absolute paths are reduced to their last part.

A bundle, a report and the files of a comparison go to other people. `/home/ada/secret-project/w.safetensors` would tell
them who made these and where, without any use. Relative paths and URLs stay as they were typed.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any


def public_path(path: str | Path) -> str:
    """Return the last part of an absolute path, of this system or of Windows; everything else unchanged."""
    text = str(path)
    for kind in (PurePosixPath, PureWindowsPath):
        if kind(text).is_absolute() and kind(text).name:
            return kind(text).name
    return text


def public_path_from_here(path: str | Path) -> str:
    """Return a path below the current folder relative to it, so that it can be used again; else `public_path`."""
    if Path(path).is_absolute() and Path(path).is_relative_to(Path.cwd()):
        return str(Path(path).relative_to(Path.cwd()))
    return public_path(path)


def public_command(command: str) -> str:
    """Return a command with `public_path` of each of its words, also after a `=`; unchanged if it cannot be parsed."""
    try:
        words = shlex.split(command)
    except ValueError:
        return command
    parts = [word.rpartition("=") for word in words]
    return shlex.join(f"{before}{sign}{public_path(value)}" for before, sign, value in parts)


def public_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a configuration, with the weights file by its name only."""
    values = dict(config)
    if values.get("weights"):
        values["weights"] = public_path(values["weights"])
    return values
