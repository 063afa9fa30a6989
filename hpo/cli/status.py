"""`hpo status`: the status of a study, once, live, or as JSON; `hpo run` draws it too."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from hpo.cli.confirm_text import confirm_lines, replicate_text, seed_notes
from hpo.cli.connect import connected
from hpo.cli.noise_text import converged_line, noise_lines
from hpo.cli.options import debug_option, storage_options, study_option
from hpo.cli.terminal import can_redraw
from hpo.hints import hint
from hpo.strict_json import strict_json
from search_spaces import RUN

if TYPE_CHECKING:
    from hpo.search.status import StudyStatus, TrialStatus
    from storage import LeaseInfo


_BLOCKS = "▁▂▃▄▅▆▇█"

_STYLES = {"complete": "green", "pruned": "yellow", "failed": "red", "running": "cyan", "waiting": "dim"}

_UNBOUNDED = 10_000
"""Width in columns that every table fits."""

_LEAST_TRIED = 16
"""Width in columns of a trial's parameters, at least, where they are shown."""

SHOWN = 12
"""Number of trials in the table: the running ones and the latest finished."""


def draw(status: StudyStatus, shown: int = SHOWN) -> RenderableType:
    """Return a head line with a bar, the control of the study, the trials, the leases, the best so far."""
    leases = [lease_table(status.leases), Text()] if status.leases else []
    # The leases take their lines from the finished trials: a live view is cut at the end of the screen.
    trials = _table(status, shown - len(status.leases) - 2 if leases else shown)
    return Group(
        _head(status),
        *_control_lines(status),
        *_split_line(status),
        *(Text(line, style="dim") for line in confirm_lines(status)),
        *([Text(status.changes.line(), style="dim")] if status.changes else []),
        Text(),
        trials,
        Text(),
        *leases,
        *_repeated_line(status),
        best_line(status),
        *([Text(line) for line in status.probe.lines(status.value_name)] if status.probe else []),
        *noise_lines(status),
    )


class _WideOrNarrow:
    """`wide` where the terminal has its minimum width (`at_least`) or its full width; else `narrow`."""

    def __init__(self, wide: RenderableType, narrow: RenderableType, *, at_least: bool) -> None:
        self._wide, self._narrow, self._at_least = wide, narrow, at_least

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        needed = Measurement.get(console, options.update(width=_UNBOUNDED), self._wide)
        columns = needed.minimum if self._at_least else needed.maximum
        yield self._wide if columns <= options.max_width else self._narrow


def _head(status: StudyStatus) -> RenderableType:
    counts, limit = status.counts, status.limits.trials
    bar = ProgressBar(total=limit or max(1, counts["finished"]), completed=counts["finished"], width=24)
    states = Text("  ").join(
        Text(f"{counts[state]} {state}", style=_STYLES[state]) for state in _STYLES if counts[state]
    )
    name = Text(status.study, style="bold", overflow="fold")
    done = Text(_finished(counts["finished"], limit))
    left = _time_left(status)
    narrow = Group(name, _in_line(bar), done, states, *([Text(left)] if left else []))
    return _WideOrNarrow(_in_line(name, bar, done, states, left), narrow, at_least=False)


def _finished(finished: int, limit: int | None) -> str:
    """Return `3 of 20 trials`; a study may have more than the limit, which a later run may lower."""
    trials = "1 trial" if finished == 1 else f"{finished} trials"
    if limit is None:
        return trials
    return f"{finished} of {limit} trials" if finished <= limit else f"{trials}, more than the limit of {limit}"


def _in_line(*parts: RenderableType) -> Table:
    grid = Table.grid(padding=(0, 2))
    for _ in parts:
        grid.add_column(no_wrap=True)
    grid.add_row(*parts)
    return grid


def _control_lines(status: StudyStatus) -> list[Text]:
    """Return why a study does not run, and what it needs; nothing where it runs."""
    if line := converged_line(status):
        return [Text(line, style="green")]
    resume = f"`{hint('resume', study=status.study)}`"
    lines = {
        "pause": f"paused: its workers wait, {resume} lets them go on",
        "stop": f"stopped: no trial is given out, {resume} allows workers again",
    }
    if status.control in lines:
        return [Text(lines[status.control], style="yellow")]
    idle = not status.leases and any(line.state == "waiting" and line.epoch for line in status.trials)
    way = "`hpo run` with another --timeout, or with none," if status.out_of_time else "`hpo run` or `hpo worker`"
    return [Text(f"no worker trains: {way} goes on", style="yellow")] if idle else []


def _split_line(status: StudyStatus) -> list[Text]:
    """Return how the images are split where they are grouped or dealt into folds."""
    data = status.data
    return [Text(f"split: {data['split']}", style="dim")] if data.get("group_by") or data.get("folds") else []


def _repeated_line(status: StudyStatus) -> list[Text]:
    if status.redone < 0.05:
        return []
    return [Text(f"{status.redone:.1f} epochs were trained again after interruptions", style="dim"), Text()]


def _time_left(status: StudyStatus) -> str:
    spent = status.limits.trials is not None and status.counts["finished"] >= status.limits.trials
    if status.limits.deadline is None or spent:
        return ""
    left = status.limits.deadline - status.now
    return f"{duration(left.total_seconds())} left" if left > timedelta() else "time is up"


def _table(status: StudyStatus, shown: int) -> RenderableType:
    """Return the trials; on a narrower terminal without curves, then without parameters, then without both figures.

    Two figures beside the value leave no room for all at 80 columns, and what is tried says more than the curve.
    """
    lines = _latest(status.trials, shown)
    if not lines:
        return Text("no trial has started yet", style="dim")
    chosen: RenderableType = _narrow_table(status, lines)
    for tried, curves in ((False, True), (True, False), (True, True)):
        if curves or status.robustness:
            wide = _wide_table(status, lines, tried=tried, curves=curves)
            chosen = _WideOrNarrow(wide, chosen, at_least=True)
    return chosen


def _wide_table(status: StudyStatus, lines: Sequence[TrialStatus], *, tried: bool, curves: bool) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    made_of = ("clean", "altered") if status.robustness else ()
    curve = ("curve",) if curves else ()
    for title in ("trial", "state", "epoch", status.value_name, *made_of, *curve, "time"):
        table.add_column(title, justify="left" if title in ("state", "curve") else "right", no_wrap=True)
    if tried:
        table.add_column("what it tries", min_width=_LEAST_TRIED)
    for line in lines:
        number, state, epoch, value, time = _cells(status, line)
        # In a column that may wrap, so that a narrow terminal takes its width first; the text stays in one line.
        what = Text(line.reason or tried_by(line), no_wrap=True, overflow="ellipsis")
        pair = [f"{figure:.4f}" for figure in line.pair] if line.pair else [""] * len(made_of)
        shape = [sparkline(line.curve)] if curves else []
        table.add_row(number, state, epoch, value, *pair, *shape, time, *([what] if tried else []))
    return table


def _narrow_table(status: StudyStatus, lines: Sequence[TrialStatus]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
    for title in ("trial", "state", "epoch", status.value_name, "time"):
        table.add_column(title, justify="left" if title == "state" else "right", overflow="fold")
    for line in lines:
        table.add_row(*_cells(status, line))
    return table


def _cells(status: StudyStatus, line: TrialStatus) -> tuple[str, Text, str, str, str]:
    """Return number, state, epoch, value and time of a trial."""
    best = status.best
    star = " ★" if best and line.number == best.number else ""
    epoch = epochs_in_words(line)
    value = value_of(_as_one_of_many(line))
    return str(line.number), Text(line.state + star, style=_STYLES[line.state]), epoch, value, duration(line.seconds)


def _as_one_of_many(line: TrialStatus) -> TrialStatus:
    """Return the trial without the error of its value, unless it is one over folds.

    Without folds the errors of all trials are much alike: the best one shows it.
    """
    return line if line.folds else replace(line, standard_error=None)


def fold_of(line: TrialStatus) -> str:
    """Return `fold 2/5, ` before the epochs of a trial over folds, else nothing."""
    return f"fold {line.folds['fold']}/{line.folds['of']}, " if line.folds else ""


def epochs_in_words(line: TrialStatus) -> str:
    """Return `3/12`, `fold 2/5, 3/12`, or `probe` for a frozen probe, which has no epochs."""
    return "probe" if line.probe else fold_of(line) + epochs_of(line.epoch, line.epochs)


def value_of(line: TrialStatus) -> str:
    """Return `0.9012`, or `0.9012 ± 0.0051` with its standard error."""
    from hpo.evaluation.intervals import plus_minus

    return "" if line.value is None else plus_minus(line.value, line.error)


def value_in_full(status: StudyStatus, line: TrialStatus) -> str:
    """Return the value, with what it is made of: `0.9123 (accuracy 0.9812 clean, 0.8434 altered)`."""
    pair = f" ({status.metric} {line.pair[0]:.4f} clean, {line.pair[1]:.4f} altered)" if line.pair else ""
    return f"{value_of(line)}{pair}"


def epochs_of(done: int, planned: int) -> str:
    """Return `3/12`, or the epochs done where the planned ones are not known."""
    return f"{done}/{planned}" if planned else str(done or "")


def lease_table(leases: Sequence[LeaseInfo]) -> RenderableType:
    """Return a table of the workers that hold a trial, and of the last renewals of their leases."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("trial", justify="right", no_wrap=True)
    table.add_column("worker", max_width=32, overflow="fold")
    table.add_column("device", overflow="fold")
    table.add_column("lease")
    for lease in leases:
        style = "red" if lease.left < 0 else "yellow" if lease.note else ""
        table.add_row(str(lease.number), lease.owner, lease.device, Text(lease_state(lease), style=style))
    return table


def lease_state(lease: LeaseInfo) -> str:
    """Return the last renewal or expiry, the attempts and the note: `renewed 3s ago, claimed 2 times, waits for …`."""
    if lease.left < 0:
        renewal = f"expired {duration(-lease.left)} ago: the next worker takes it over"
    else:
        renewal = f"renewed {duration(lease.age)} ago"
    attempts = f"claimed {lease.attempts} times" if lease.attempts > 1 else ""
    return ", ".join(part for part in (renewal, attempts, lease.note) if part)


def _latest(lines: Sequence[TrialStatus], shown: int) -> list[TrialStatus]:
    """Return the running trials and the newest others, by number, without those that were never claimed."""
    started = [line for line in lines if line.state != "waiting" or line.epoch]
    running = [line for line in started if line.state == "running"]
    others = [line for line in started if line.state != "running"]
    rest = max(0, shown - len(running))
    return sorted(others[max(0, len(others) - rest) :] + running, key=lambda line: line.number)


def best_line(status: StudyStatus) -> Text:
    """Return `best  trial 7  0.9825  learning_rate=0.0031 …`, or that there is no complete trial yet."""
    best = status.best
    if best is None or best.value is None:
        return Text("no complete trial yet", style="dim")
    text = Text.assemble(
        ("best ", "bold"), f" trial {best.number}  ", (value_in_full(status, best), "bold green"), "  "
    )
    text.append(tried_by(best), style="dim")
    for note in seed_notes(status):
        text.append(f"\n{note}")
    higher = [line for line in status.trials if line.state == "pruned" and (line.value or 0.0) > best.value]
    if higher:
        top = max(higher, key=lambda line: line.value or 0.0)
        when = f"pruned in {fold_of(top).removesuffix(', ')}" if top.folds else "pruned"
        text.append(f"\ntrial {top.number} had {top.value:.4f} when it was {when}; only complete trials are ranked")
    return text


def tried_by(line: TrialStatus) -> str:
    """Return the searched parameters of a trial, after the trial that it repeats; or the name of a frozen probe."""
    if line.probe:
        return f"frozen probe of {line.probe}"
    return ": ".join(text for text in (replicate_text(line), parameters(line.params)) if text)


def parameters(params: Mapping[str, Any]) -> str:
    """Return the searched parameters as `key=value`, numbers to three figures."""
    return "  ".join(
        f"{key}={value:.3g}" if isinstance(value, float) else f"{key}={value}" for key, value in params.items()
    )


def plain_line(status: StudyStatus, line: TrialStatus) -> str:
    """Return a finished trial as one line, for logs and pipes."""
    counts, best = status.counts, status.best
    top = f"best complete trial {best.number}: {value_in_full(status, best)}" if best else "no complete trial yet"
    run = f" ({line.params[RUN]})" if RUN in line.params else ""  # of a trial list
    epochs = f" after {fold_of(line)}{line.epoch} epoch{'' if line.epoch == 1 else 's'}"
    if line.replicate_of is not None:
        run = f" ({replicate_text(line)})"
    if line.probe:
        run, epochs = f" (frozen probe of {line.probe})", ""
    return (
        f"trial {line.number}{run} {line.state}{epochs}, "
        f"{_best_value(status, line)}, {duration(line.seconds)}; "
        f"{_finished(counts['finished'], status.limits.trials)} finished, {top}"
        + (f"; {line.reason}" if line.reason else "")
    )


def _best_value(status: StudyStatus, line: TrialStatus) -> str:
    """Return `best accuracy 0.9000 in epoch 3`, or `no accuracy` for a trial that has reported none."""
    if line.value is None:
        return f"no {status.metric}"
    if line.folds:
        found = "mean" if len(line.folds["values"] or ()) > 1 else "best"
        return f"{found} {status.value_name} {value_in_full(status, line)}"
    where = f" in epoch {line.curve.index(line.value) + 1}" if line.value in line.curve else ""
    return f"best {status.value_name} {value_in_full(status, _as_one_of_many(line))}{where}"


def sparkline(curve: Sequence[float]) -> str:
    """Return the last 12 epochs of the curve as blocks, from its lowest to its highest value."""
    if len(curve) < 2:
        return ""
    values = [value for value in curve[-12:] if isfinite(value)]
    low, high = min(values, default=0.0), max(values, default=0.0)
    span = (high - low) or 1.0
    return "".join(_BLOCKS[int((value - low) / span * (len(_BLOCKS) - 1))] for value in values)


def duration(seconds: float) -> str:
    """Return a number of seconds as `42s`, `3m07s` or `2h05m`."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


INTERVAL = 2.0
"""Seconds between two updates of --watch."""


@click.command("status")
@study_option
@storage_options
@click.option("--watch", is_flag=True, help="Draw it again every two seconds until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@debug_option
def status_command(study: str, storage: str | None, home: Path, watch: bool, as_json: bool) -> None:
    """Show how STUDY stands: trials by state, the running and the latest ones, the best."""
    with connected(storage, home) as db:
        from hpo.search.status import StudyReader
        from storage import open_study

        read_status = StudyReader(db, open_study(db, study))
        if as_json:
            click.echo(strict_json(read_status().to_dict(), indent=2))
            return
        if watch:
            with suppress(KeyboardInterrupt):  # it ends so
                _watch(read_status)
        else:
            Console().print(draw(read_status()))


def _watch(read_status: Callable[[], StudyStatus]) -> None:
    """Draw the status again and again: in place on a terminal, one below the other elsewhere."""
    console = Console()
    if not can_redraw(sys.stdout):
        while True:
            console.print(draw(read_status()))
            time.sleep(INTERVAL)
            console.print()
    from rich.live import Live

    with Live(draw(read_status()), console=console, auto_refresh=False, redirect_stderr=False) as live:
        while True:
            time.sleep(INTERVAL)
            live.update(draw(read_status()), refresh=True)
