"""Progress of work whose end nobody knows, and lines beside it, on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import click

from hpo.cli.progress import SILENT_SECONDS

_START_OF_LINE = "\r\033[K"
"""Goes back to the start of the terminal's line and clears it."""


def ticker() -> Callable[[int], None]:
    """A callback with the images done so far: one changing line on a terminal, a line now and then elsewhere."""
    said = time.monotonic()

    def update(done: int) -> None:
        nonlocal said
        if sys.stderr.isatty():
            click.echo(f"{_START_OF_LINE}{done:,} images", nl=False, err=True)
        elif time.monotonic() - said >= SILENT_SECONDS:
            said = time.monotonic()
            click.echo(f"{done:,} images", err=True)

    return update


def say(line: str) -> None:
    """A line on stderr, in place of the ticker's where there is one."""
    click.echo(f"{_START_OF_LINE if sys.stderr.isatty() else ''}{line}", err=True)
