"""A comparison as a table in Markdown and CSV, and the notes under it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import mean
from typing import Any

from hpo.comparison.cells import FIGURES, NOTHING, SCORES, centre, interval, model, percent
from hpo.comparison.circumstances import Circumstances
from hpo.comparison.outputs import to_csv, to_markdown
from hpo.comparison.row import Row
from hpo.comparison.score import Score
from hpo.comparison.speed import BATCHES
from hpo.delivery.openings import Looks


def markdown(rows: Sequence[Row], about: Circumstances) -> str:
    """The table, the accuracy by alteration, and the notes."""
    header = ["contestant", "model", *SCORES, *(heading for heading, _ in FIGURES)]
    cells = (
        [row.label, model(row), *(_one_line(getattr(row, s)) for s in SCORES), *(cell(row) for _, cell in FIGURES)]
        for row in rows
    )
    parts = ["# Comparison\n", to_markdown(header, cells, left=2)]
    if names := list(dict.fromkeys(name for row in rows for name in row.conditions)):
        parts += ["## Accuracy by alteration, mean over the severities\n", _by_alteration(rows, names)]
    return "\n".join([*parts, *(f"{line}\n" for line in notes(rows, about))])


def _one_line(score: Score | None) -> str:
    return NOTHING if score is None else f"{centre(score)} ({interval(score)})"


def _by_alteration(rows: Sequence[Row], names: Sequence[str]) -> str:
    measured = [row for row in rows if row.conditions]
    cells = ([row.label, *(percent(mean(row.conditions[name].values())) for name in names)] for row in measured)
    return to_markdown(["contestant", *names], cells)


def csv_table(rows: Iterable[Row]) -> bytes:
    """A line per contestant, figures in full."""
    return to_csv(_flat(row) for row in rows)


def _flat(row: Row) -> Mapping[str, Any]:
    scores = {f"{name}{suffix}": value for name in SCORES for suffix, value in _parts(getattr(row, name)).items()}
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
    """What many models on one test part make of its figures."""
    here = sum(row.seeds for row in rows if row.test)
    models = max([here, *(row.test_models for row in rows)])
    if here and models > 1:
        yield Looks(max(row.openings for row in rows), models).line


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
