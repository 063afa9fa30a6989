"""The figure of a comparison: accuracies with intervals, and accuracy against parameters; and all its files.

Models are numbered in the right panel, because names would overlap where networks have similar sizes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from hpo.corruption_family import FamilyName
from hpo.evaluation.intervals import Score
from hpo.experiments.compared_model import ComparedModel
from hpo.experiments.comparison import ComparisonRow
from hpo.experiments.comparison_table import FAMILIES, SCORES, corruptions_csv, csv_table, markdown
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
    """Return the tables, the figures as SVG and PNG, and results.json with everything.

    Those by corruption are left out where no model was measured under any.
    """
    results = {
        **about.to_dict(),
        "models": [row.to_dict() for row in rows],
        "missing": [{"label": model.label, "notes": list(model.notes)} for model in missing],
    }
    return {
        "table.md": markdown(rows, about).encode(),
        "table.csv": csv_table(rows),
        **figure_files(draw_comparison(rows)),
        **_corruption_files(rows),
        "results.json": to_json(results),
    }


def _corruption_files(rows: Sequence[ComparisonRow]) -> dict[str, bytes]:
    if not any(row.families for row in rows):
        return {}
    drawn = figure_files(draw_corruptions(rows))
    return {"corruptions.csv": corruptions_csv(rows), **{_renamed(name): content for name, content in drawn.items()}}


def _renamed(name: str) -> str:
    return name.replace("figure", "corruptions")


def draw_corruptions(rows: Sequence[ComparisonRow]) -> Figure:
    """Return the accuracy of each model under each kind of corruption, as a shaded table for each family."""
    families = {name: words for name, words in FAMILIES.items() if any(name in row.families for row in rows)}
    measured = {name: [row for row in rows if name in row.families] for name in families}
    lines = sum(map(len, measured.values()))
    with file_style():
        figure = Figure(figsize=(11, 1.7 * len(families) + 0.34 * lines), layout="constrained")
        grid = figure.subplots(len(families), 1, squeeze=False, height_ratios=[2 + len(measured[n]) for n in families])
        for axes, (name, words) in zip(grid[:, 0], families.items(), strict=True):
            _draw_shades(axes, measured[name], name)
            axes.set_title(f"accuracy in % under {words}, mean over the severities", loc="left", fontsize=9)
    return figure


def _draw_shades(axes: Axes, rows: Sequence[ComparisonRow], family: FamilyName) -> None:
    """Draw a cell for each model and kind, darker where the accuracy is lower."""
    kinds = list(rows[0].families[family])
    values = [[100 * fmean(row.families[family][kind].values()) for kind in kinds] for row in rows]
    axes.imshow(values, cmap="Blues_r", vmin=0, vmax=130, aspect="auto")
    for place, line in enumerate(values):
        for column, value in enumerate(line):
            colour = "white" if value < 45 else "black"
            axes.text(column, place, f"{value:.0f}", ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks(range(len(kinds)), kinds, rotation=30, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(rows)), [row.label for row in rows])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


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
