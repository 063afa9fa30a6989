"""A comparison as a figure: accuracies with their intervals, and accuracy against parameters.

Contestants are numbered: names beside their points would lie over each other where networks are of one size.

What a comparison leaves in a folder.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hpo.evaluation.intervals import Score
from hpo.experiments.compared_model import ComparedModel
from hpo.experiments.comparison import ComparisonRow
from hpo.experiments.comparison_table import csv_table, markdown
from hpo.experiments.outputs import BLUE, GREEN, MARKS, ORANGE, render, ruled, styled, to_json
from hpo.experiments.provenance import Provenance

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_SCORES = (("validation", "o", BLUE, -0.18), ("corrupted", "s", ORANGE, 0.0), ("test", "D", GREEN, 0.18))
"""Name, marker, colour, and how far from the middle of its line."""


def draw(rows: Sequence[ComparisonRow]) -> Figure:
    """The first contestant on top; those without parameters are left out on the right."""
    from matplotlib.figure import Figure

    with styled():
        figure = Figure(figsize=(11, 1.6 + 0.42 * max(4, len(rows))), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=[3, 2])
        _dots(left, rows)
        _against_parameters(right, rows)
    return figure


def _dots(axes: Axes, rows: Sequence[ComparisonRow]) -> None:
    for name, marker, colour, offset in _SCORES:
        known = [(place + offset, score) for place, row in enumerate(rows) if (score := getattr(row, name))]
        if known:
            places, scores = zip(*known, strict=True)
            values = [100 * score.value for score in scores]
            axes.errorbar(values, places, xerr=_bars(scores), fmt=marker, color=colour, label=name, **MARKS)
    axes.set_yticks(range(len(rows)), [f"{row.label}  {n}" for n, row in enumerate(rows, start=1)])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel("accuracy in %, with its 95 % interval")
    ruled(axes, axis="x")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(_SCORES), frameon=False)


def _against_parameters(axes: Axes, rows: Sequence[ComparisonRow]) -> None:
    known = [(n, row.parameters, row.validation) for n, row in enumerate(rows, start=1)]
    shown = [(n, size, score) for n, size, score in known if size and score]
    if shown:
        numbers, sizes, scores = zip(*shown, strict=True)
        values = [100 * score.value for score in scores]
        axes.errorbar(sizes, values, yerr=_bars(scores), fmt="o", color=BLUE, **MARKS)
        _in_decades(axes, sizes)
        for number, place in zip(numbers, zip(sizes, values, strict=True), strict=True):
            axes.annotate(str(number), place, xytext=(5, 2), textcoords="offset points", fontsize=8)
    without = [str(n) for n, size, score in known if score and not size]
    axes.set_xlabel(f"parameters (not shown, having none: {', '.join(without)})" if without else "parameters")
    axes.set_ylabel("validation accuracy in %")
    ruled(axes)


def _in_decades(axes: Axes, sizes: Sequence[int]) -> None:
    """A logarithmic axis over whole decades, which alone are labelled: labels between them would overlap."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.set_xlim(10 ** math.floor(math.log10(min(sizes))), 10 ** (math.floor(math.log10(max(sizes))) + 1))
    axes.xaxis.set_major_locator(LogLocator(numticks=6))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _bars(scores: Sequence[Score]) -> list[list[float]]:
    """Distances to the ends of the intervals, as matplotlib wants them."""
    below = [100 * (score.value - score.interval[0]) for score in scores]
    above = [100 * (score.interval[1] - score.value) for score in scores]
    return [below, above]


def files(rows: Sequence[ComparisonRow], missing: Sequence[ComparedModel], about: Provenance) -> dict[str, bytes]:
    """table.md, table.csv, figure.svg, figure.png and results.json, which holds everything."""
    results = {
        **about.to_dict(),
        "contestants": [row.to_dict() for row in rows],
        "missing": [{"label": candidate.label, "notes": list(candidate.notes)} for candidate in missing],
    }
    return {
        "table.md": markdown(rows, about).encode(),
        "table.csv": csv_table(rows),
        **render(draw(rows)),
        "results.json": to_json(results),
    }
