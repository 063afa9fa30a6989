"""`hpo.toml`: defaults for options, for all commands at the top level, for one command in its own table.

study = "cells"
[run]
workers = 2
set = ["epochs=8"]
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

import click

from hpo.errors import UsageError


def default_map(group: click.Group, ctx: click.Context) -> dict[str, Any]:
    """Return click's default map from `$HPO_CONFIG` or `./hpo.toml`; {} where there is no file.

    Raises UsageError for an invalid file, for a key that no command has and for a value of the wrong type, rather than
    ignoring them.
    """
    path = Path(os.environ.get("HPO_CONFIG", "hpo.toml"))
    if not path.is_file():
        if "HPO_CONFIG" in os.environ:
            raise UsageError(f"HPO_CONFIG names {path}, but there is no such file")
        return {}
    values = _read(path)
    tables = {key: value for key, value in values.items() if isinstance(value, dict)}
    shared = {key: value for key, value in values.items() if key not in tables}
    known = {name: _parameters(group, ctx, name) for name in group.list_commands(ctx)}
    _refuse_unknown(path, shared, tables, known)
    return {
        name: {
            parameters[key].name or key: _checked(path, key, value, parameters[key])
            for key, value in {**shared, **tables.get(name, {})}.items()
            if key in parameters
        }
        for name, parameters in known.items()
    }


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from None


def _checked(path: Path, key: str, value: Any, parameter: click.Parameter) -> Any:
    """Return the value as click takes it; UsageError for another type than the option's."""
    if parameter.multiple:
        values = value if isinstance(value, list) else [value]
        kind, fits = "a text or a list of texts", all(isinstance(one, str) for one in values)
        value = values
    elif isinstance(parameter, click.Option) and parameter.is_flag:
        kind, fits = "true or false", isinstance(value, bool)
    else:
        kind, fits = "a text or a number", isinstance(value, str | int | float) and not isinstance(value, bool)
    if not fits:
        raise UsageError(f"{path}: {key} is {value!r}, but must be {kind}")
    return value


def _parameters(group: click.Group, ctx: click.Context, name: str) -> dict[str, click.Parameter]:
    """Return click's parameters of a command by their names in the file, which are those of the command line."""
    command = group.get_command(ctx, name)
    assert command is not None
    found: dict[str, click.Parameter] = {}
    for parameter in command.params:
        for flag in parameter.opts:
            spelled = flag.lstrip("-")
            found[spelled] = found[spelled.replace("-", "_")] = parameter
    return found


def _refuse_unknown(
    path: Path, shared: dict[str, Any], tables: dict[str, dict[str, Any]], known: dict[str, dict[str, click.Parameter]]
) -> None:
    everything = {key for parameters in known.values() for key in parameters}
    for key in shared:
        if key not in everything:
            raise UsageError(f"{path}: {key}: no command has such an option")
    for name, table in tables.items():
        if name not in known:
            raise UsageError(f"{path}: [{name}]: no such command; the commands are {', '.join(known)}")
        for key in table:
            if key not in known[name]:
                raise UsageError(f"{path}: [{name}] {key}: `hpo {name}` has no such option")
