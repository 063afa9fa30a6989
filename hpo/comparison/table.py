"""A comparison as a table: for a terminal, as Markdown, as CSV."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from statistics import mean
from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from hpo.comparison.circumstances import Circumstances
from hpo.comparison.outputs import to_csv, to_markdown
from hpo.comparison.row import Row
from hpo.comparison.score import Score
from hpo.comparison.speed import BATCHES

NOTHING = "–"

_FIGURES: tuple[tuple[str, str, Callable[[Row], str]], ...] = (
    ("macro F1", "macro F1", lambda row: _percent(row.macro_f1)),
    ("param.", "parameters", lambda row: count(row.parameters)),
    ("train.", "trainable", lambda row: count(row.trainable_parameters)),
    (
        "s/epoch",
        "s per epoch",
        lambda row: NOTHING if row.seconds_per_epoch is None else f"{row.seconds_per_epoch:.3g}",
    ),
    *((f"img/s\n×{b}", f"images/s at {b}", lambda row, b=b: speed(row.images_per_second.get(b))) for b in BATCHES),
    ("memory", "peak memory", lambda row: memory(row.peak_memory, most=row.memory_shared)),
)
"""Heading in a terminal, heading in Markdown, cell."""
_SCORES = ("validation", "corrupted", "test")


def print_comparison(console: Console, rows: Sequence[Row], about: Circumstances) -> None:
    """The table, the notes of the rows under it, and where the figures come from; fits 120 columns."""
    console.print(_table(rows))
    for line in notes(rows, about):
        console.print(Text(line, style="dim"))


def _table(rows: Sequence[Row]) -> RenderableType:
    """Two lines a contestant: the figures, and under the scores their intervals."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1))
    table.add_column("contestant", overflow="fold", min_width=24, max_width=34)
    for heading in (*_SCORES, *(heading for heading, _, _ in _FIGURES)):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        label = Text.assemble(row.label, ("\n" + _model(row), "dim"))
        scores = (_two_lines(getattr(row, name)) for name in _SCORES)
        table.add_row(label, *scores, *(cell(row) for _, _, cell in _FIGURES))
    return table


def _model(row: Row) -> str:
    seeds = f", {row.seeds} seeds" if row.seeds > 1 else ""
    return f"{row.backbone}, {row.image_size} px, {row.epochs} ep.{seeds}"


def _two_lines(score: Score | None) -> Text:
    if score is None:
        return Text(NOTHING)
    return Text.assemble(_mean(score), ("\n" + _interval(score), "dim"))


def markdown(rows: Sequence[Row], about: Circumstances) -> str:
    """The table, the accuracy by alteration, and the notes."""
    header = ["contestant", "model", *_SCORES, *(heading for _, heading, _ in _FIGURES)]
    cells = (
        [row.label, _model(row), *(_one_line(getattr(row, s)) for s in _SCORES), *(cell(row) for *_, cell in _FIGURES)]
        for row in rows
    )
    parts = ["# Comparison\n", to_markdown(header, cells, left=2)]
    if names := list(dict.fromkeys(name for row in rows for name in row.conditions)):
        parts += ["## Accuracy by alteration, mean over the severities\n", _by_alteration(rows, names)]
    return "\n".join([*parts, *(f"{line}\n" for line in notes(rows, about))])


def _one_line(score: Score | None) -> str:
    return NOTHING if score is None else f"{_mean(score)} ({_interval(score)})"


def _by_alteration(rows: Sequence[Row], names: Sequence[str]) -> str:
    measured = [row for row in rows if row.conditions]
    cells = ([row.label, *(_percent(mean(row.conditions[name].values())) for name in names)] for row in measured)
    return to_markdown(["contestant", *names], cells)


def csv_table(rows: Iterable[Row]) -> bytes:
    """A line per contestant, figures in full."""
    return to_csv(_flat(row) for row in rows)


def _flat(row: Row) -> Mapping[str, Any]:
    scores = {f"{name}{suffix}": value for name in _SCORES for suffix, value in _parts(getattr(row, name)).items()}
    speeds = {f"images_per_second_{batch}": row.images_per_second.get(batch) for batch in BATCHES}
    plain = ("parameters", "trainable_parameters", "seconds_per_epoch")
    return {
        "contestant": row.label,
        **{name: getattr(row, name) for name in ("kind", "backbone", "image_size", "epochs", "seeds")},
        **scores,
        "macro_f1": row.macro_f1,
        **{name: getattr(row, name) for name in plain},
        **speeds,
        "peak_memory": row.peak_memory,
        "memory_shared": row.memory_shared,
        "trained_on": "; ".join(row.trained_on),
        "notes": "; ".join(row.notes),
    }


def _parts(score: Score | None) -> dict[str, float | None]:
    if score is None:
        return dict.fromkeys(("", "_low", "_high", "_n", "_spread"))
    return {
        "": score.value,
        "_low": score.interval[0],
        "_high": score.interval[1],
        "_n": score.n,
        "_spread": score.spread,
    }


def notes(rows: Sequence[Row], about: Circumstances) -> list[str]:
    """What a reader must know beside the figures."""
    lines = [f"{row.label}: {note}" for row in rows for note in row.notes]
    lines += [*_looks(rows), *_trainings(rows)]
    if about.busy:
        lines.append(f"the machine was busy (load {about.load:.1f} a core): the speeds are lower than they could be")
    seeds = max((row.seeds for row in rows), default=1)
    spread = f"; ± is the standard deviation over {seeds} seeds" if seeds > 1 else ""
    lines.append(f"accuracy in % with its 95 % interval{spread}; memory is the peak in training")
    return [*lines, about.line]


def _looks(rows: Sequence[Row]) -> Iterator[str]:
    """How often the test part was looked at: for this table, and for one of its models."""
    models = sum(row.seeds for row in rows if row.test)
    if models > 1:
        yield f"{models} models were measured on one test part: the best of so many flatters, so choose by validation"
    opened = max((row.openings for row in rows), default=0)
    if opened > 1:
        yield f"the test part was opened up to {opened} times with one model: its accuracy flatters whoever tuned by it"


def _trainings(rows: Sequence[Row]) -> Iterator[str]:
    """Whose training figures are not of this machine, or not of the run alone."""
    places: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        places.setdefault(row.trained_on, []).append(row.label)
    for devices, labels in places.items():
        if devices:
            yield f"s/epoch and memory of {', '.join(labels)}: training ran on {' and '.join(devices)}"
    if any(row.memory_shared for row in rows):
        yield "≤: peak of a process that had trained others before"


def _mean(score: Score) -> str:
    spread = f" ±{100 * score.spread:.1f}" if score.spread is not None else ""
    return f"{100 * score.value:.2f}{spread}"


def _interval(score: Score) -> str:
    low, high = score.interval
    return f"{100 * low:.1f}–{100 * high:.1f}"


def _percent(value: float | None) -> str:
    return NOTHING if value is None else f"{100 * value:.1f}"


def count(value: int | None) -> str:
    """`3.50 M`, `12.3 k`, `0`."""
    if value is None:
        return NOTHING
    if value < 1000:
        return str(value)
    return f"{value / 1e6:.3g} M" if value >= 1e6 else f"{value / 1e3:.3g} k"


def speed(value: float | None) -> str:
    """Images a second to three figures."""
    if value is None:
        return NOTHING
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def memory(value: int | None, *, most: bool = False) -> str:
    """`1.3 GB`, `640 MB`; `≤1.3 GB` where that is the most that it can be."""
    if not value:
        return NOTHING
    return ("≤" if most else "") + (f"{value / 1e9:.2g} GB" if value >= 1e9 else f"{value / 1e6:.0f} MB")
