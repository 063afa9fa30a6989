"""The figure of a comparison: accuracies with intervals, and accuracy against parameters; and all its files.

Models are numbered in the right panel, because names would overlap where networks have similar sizes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from hpo.evaluation.intervals import Score
from hpo.experiments.compared_model import ComparedModel
from hpo.experiments.comparison import ComparisonRow
from hpo.experiments.comparison_table import SCORES, corruptions_csv, csv_table, markdown
from hpo.experiments.outputs import to_json
from hpo.experiments.provenance import Provenance
from hpo.figures.charts import (
    PRINT_BLUE,
    PRINT_GREEN,
    PRINT_GREY,
    PRINT_ORANGE,
    PRINT_PURPLE,
    add_grid,
    figure_files,
    file_style,
)

_SCORES = (
    ("validation", "o", PRINT_BLUE, -0.28), ("corrupted", "s", PRINT_ORANGE, -0.14),
    ("unseen", "^", PRINT_PURPLE, 0.0), ("test", "D", PRINT_GREEN, 0.14), ("other", "v", PRINT_GREY, 0.28),
)  # fmt: skip
"""Name, marker, colour, and vertical distance from the middle of the model's line."""

_MARKS: dict[str, Any] = {"markersize": 4.5, "capsize": 2, "linewidth": 1}


def comparison_files(
    rows: Sequence[ComparisonRow], missing: Sequence[ComparedModel], about: Provenance
) -> dict[str, bytes]:
    """Return table.md, table.csv, corruptions.csv, figure.svg, figure.png, and results.json with everything."""
    results = {
        **about.to_dict(),
        "models": [row.to_dict() for row in rows],
        "missing": [{"label": model.label, "notes": list(model.notes)} for model in missing],
    }
    return {
        "table.md": markdown(rows, about).encode(),
        "table.csv": csv_table(rows),
        "corruptions.csv": corruptions_csv(rows),
        **figure_files(draw_comparison(rows)),
        "results.json": to_json(results),
    }


def draw_comparison(rows: Sequence[ComparisonRow]) -> Figure:
    """Return the figure, with the first model on top; models without parameters are left out on the right."""
    with file_style():
        figure = Figure(figsize=(11, 1.6 + 0.5 * max(4, len(rows))), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=[3, 2])
        _draw_scores(left, rows)
        _draw_against_parameters(right, rows)
    return figure


def _draw_scores(axes: Axes, rows: Sequence[ComparisonRow]) -> None:
    for name, marker, colour, offset in _SCORES:
        known = [(place + offset, score) for place, row in enumerate(rows) if (score := getattr(row, name))]
        if known:
            places, scores = zip(*known, strict=True)
            values = [100 * score.value for score in scores]
            axes.errorbar(values, places, xerr=_bars(scores), fmt=marker, color=colour, label=SCORES[name], **_MARKS)
    axes.set_yticks(range(len(rows)), [f"{row.label}  {n}" for n, row in enumerate(rows, start=1)])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel("accuracy in %, with its 95 % interval")
    add_grid(axes, axis="x")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(_SCORES), frameon=False)


def _draw_against_parameters(axes: Axes, rows: Sequence[ComparisonRow]) -> None:
    known = [(n, row.parameters, row.validation) for n, row in enumerate(rows, start=1)]
    shown = [(n, size, score) for n, size, score in known if size and score]
    if shown:
        numbers, sizes, scores = zip(*shown, strict=True)
        values = [100 * score.value for score in scores]
        axes.errorbar(sizes, values, yerr=_bars(scores), fmt="o", color=PRINT_BLUE, **_MARKS)
        _scale_in_decades(axes, sizes)
        for number, place in zip(numbers, zip(sizes, values, strict=True), strict=True):
            axes.annotate(str(number), place, xytext=(5, 2), textcoords="offset points", fontsize=8)
    without = [str(n) for n, size, score in known if score and not size]
    axes.set_xlabel(f"parameters (not shown, having none: {', '.join(without)})" if without else "parameters")
    axes.set_ylabel("validation accuracy in %")
    add_grid(axes)


def _scale_in_decades(axes: Axes, sizes: Sequence[int]) -> None:
    """Make the axis logarithmic over whole decades; only these are labelled, since other labels would overlap."""
    axes.set_xscale("log")
    axes.set_xlim(10 ** math.floor(math.log10(min(sizes))), 10 ** (math.floor(math.log10(max(sizes))) + 1))
    axes.xaxis.set_major_locator(LogLocator(numticks=6))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _bars(scores: Sequence[Score]) -> list[list[float]]:
    """Return the distances to the lower and to the upper ends of the intervals, as `errorbar` takes them."""
    below = [100 * (score.value - score.interval[0]) for score in scores]
    above = [100 * (score.interval[1] - score.value) for score in scores]
    return [below, above]
