"""Progress on stderr: a bar or a changing line on a terminal, a line every few seconds elsewhere.

Where stdout is a terminal and gets results meanwhile, nothing is drawn: both would share the terminal's lines.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from hpo.cli.terminal import can_redraw

LINE_INTERVAL = 10.0
"""Seconds between two lines, at least, where nothing can be redrawn."""

_START_OF_LINE = "\r\033[K"
"""Moves the cursor to the start of the terminal's line and clears it."""


@contextmanager
def counting(what: str) -> Iterator[Callable[[int, int], None]]:
    """Give a callback `(done, total)` that draws; nothing is drawn before the first call.

    Print results after the block, when the bar is removed.
    """
    if can_redraw(sys.stderr):
        with _bar(what) as update:
            yield update
    else:
        yield _lines(what)


@contextmanager
def _bar(what: str) -> Iterator[Callable[[int, int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # Without the redirection rich would send what is printed on stdout to stderr, also where stdout is a file.
    with Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False) as bar:
        task = bar.add_task(what, visible=False)

        def update(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, visible=True)

        yield update


def _lines(what: str) -> Callable[[int, int], None]:
    last = time.monotonic()

    def update(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= LINE_INTERVAL:
            last = time.monotonic()
            click.echo(f"{what}: {done} of {total}", err=True)

    return update


class Ticker:
    """Shows how many images are done, where the total is not known, and remarks. A context manager.

    With `beside_results`, which go to stdout meanwhile, it is silent where stdout and stderr are both terminals: the
    results themselves show the progress.
    """

    def __init__(self, *, beside_results: bool) -> None:
        self._silent = beside_results and sys.stdout.isatty() and sys.stderr.isatty()
        self._redraws = can_redraw(sys.stderr) and not self._silent
        self._last_line = time.monotonic()
        self._drawn = False

    def __enter__(self) -> Ticker:
        return self

    def __exit__(self, *_: object) -> None:
        self._clear()

    def count(self, done: int) -> None:
        """Show the number of images that are done."""
        if self._redraws:
            self._clear()
            click.echo(f"{done:,} images", nl=False, err=True)
            self._drawn = True
        elif not self._silent and time.monotonic() - self._last_line >= LINE_INTERVAL:
            self._last_line = time.monotonic()
            click.echo(f"{done:,} images", err=True)

    def remark(self, line: str) -> None:
        """Write a line in place of the number of images, which is drawn again below it."""
        self._clear()
        if not self._silent:
            click.echo(line, err=True)

    def _clear(self) -> None:
        if self._drawn:
            click.echo(_START_OF_LINE, nl=False, err=True)
            self._drawn = False


class StatusLine:
    """Shows in one line of stderr what is being done; elsewhere than on a terminal a line every few seconds."""

    def __init__(self) -> None:
        self._redraws = can_redraw(sys.stderr)
        self._last_line = time.monotonic()

    def __enter__(self) -> StatusLine:
        return self

    def __exit__(self, *_: object) -> None:
        if self._redraws:
            click.echo(_START_OF_LINE, nl=False, err=True)

    def show(self, text: str) -> None:
        """Show the text in place of the one before."""
        if self._redraws:
            width = shutil.get_terminal_size().columns - 1
            click.echo(f"{_START_OF_LINE}{text[:width]}", nl=False, err=True)
        elif time.monotonic() - self._last_line >= LINE_INTERVAL:
            self._last_line = time.monotonic()
            click.echo(text, err=True)
