"""The command that somebody gave, as text to give again: for what is written beside its results."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import click
from click.core import ParameterSource

SECRET = ("storage",)
"""Parameters that may hold a password: whoever repeats the command has them in the environment."""


def command_line(ctx: click.Context) -> str:
    """`hpo NAME …` with all that was given: on the command line, in the environment or in hpo.toml."""
    words = [word for parameter in ctx.command.params for word in _words(ctx, parameter)]
    return shlex.join(["hpo", ctx.info_name or "", *words])


def _words(ctx: click.Context, parameter: click.Parameter) -> Iterator[str]:
    name = parameter.name or ""
    value: Any = ctx.params.get(name)
    source = ctx.get_parameter_source(name)
    if name in SECRET or value is None or source in (ParameterSource.DEFAULT, None):
        return
    many = parameter.multiple or parameter.nargs != 1
    for one in value if many else [value]:
        yield from _spelled(parameter, one)


def _spelled(parameter: click.Parameter, value: Any) -> Iterator[str]:
    if not isinstance(parameter, click.Option):
        yield str(value)
    elif parameter.is_flag:
        yield from (parameter.opts if value else parameter.secondary_opts)[:1]
    else:
        yield from (parameter.opts[0], f"{value.total_seconds():g}s" if isinstance(value, timedelta) else str(value))
