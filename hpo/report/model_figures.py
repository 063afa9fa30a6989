"""Charts of a model: confusion matrix, calibration, robustness, learning curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from hpo.evaluation.calibration import Reliability
from hpo.evaluation.corrupted_copy import Condition
from hpo.figures.charts import (
    BLUE,
    FAINT,
    INK,
    MUTED,
    ORANGE,
    SURFACE,
    WIDTH,
    draw_inline_svg,
    legend_above,
    plain_axes,
)
from hpo.report.wording import shortened

LINEAR_UP_TO = 30
"""Largest over smallest count of a histogram up to which its axis is linear; bars are longer than others by as much."""

MOST_NAMED = 30
"""Classes beyond which a confusion matrix has neither names nor counts, which would be too small to read."""


def confusion(matrix: Sequence[Sequence[int]], names: Sequence[str]) -> str:
    """Draw counts by true class (rows) and predicted class (columns), shaded by their share of the row."""
    counts = np.array(matrix, dtype=np.int64)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    named = len(names) <= MOST_NAMED
    side = int(np.clip(190 + 50 * len(names), 340, 760))

    def paint(figure: Figure) -> None:
        axes = plain_axes(figure)
        _draw_cells(axes, counts, shares) if named else _draw_pixels(axes, shares)
        _draw_frame(axes, [shortened(name, 24) for name in names], named)

    return draw_inline_svg(
        "confusion", (side + 60, side), "confusion matrix: true classes in rows, predicted in columns", paint
    )


def _draw_cells(axes: Axes, counts: npt.NDArray[np.int64], shares: npt.NDArray[np.float64]) -> None:
    """Draw a square and a count for each pair that occurs."""
    size = float(np.clip(150 / len(counts), 6.5, 12))
    for row, column in zip(*counts.nonzero(), strict=True):
        share, right = float(shares[row, column]), row == column
        axes.add_patch(
            Rectangle(
                (column - 0.48, row - 0.48), 0.96, 0.96, linewidth=0, facecolor=BLUE if right else ORANGE,
                alpha=0.12 + 0.88 * share**0.5 if not right else 0.08 + 0.82 * share**2,
            )
        )  # fmt: skip
        strong = share > (0.75 if right else 0.35)
        axes.text(
            column, row, f"{counts[row, column]:,}", ha="center", va="center", fontsize=size,
            color=SURFACE if strong else INK,
        )  # fmt: skip


def _draw_pixels(axes: Axes, shares: npt.NDArray[np.float64]) -> None:
    """Draw one pixel for each pair."""
    # As an image, because thousands of squares would be larger than the rest of the page.
    right = np.eye(len(shares), dtype=bool)
    pixels = np.where(right[..., None], to_rgb(BLUE), to_rgb(ORANGE))
    alpha = np.where(shares > 0, 0.15 + 0.85 * np.sqrt(shares), 0)
    axes.imshow(np.dstack([pixels, alpha]), interpolation="none")


def _draw_frame(axes: Axes, names: Sequence[str], named: bool) -> None:
    axes.grid(visible=False)
    axes.spines["bottom"].set_visible(False)
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_aspect("equal")
    axes.set(xlabel="predicted" if named else "predicted, number of the class")
    axes.set(ylabel="true" if named else "true, number of the class")
    if named:
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(names)), names)
    else:
        marks = range(9, len(names), 10)
        axes.set_xticks(marks, [str(mark + 1) for mark in marks])
        axes.set_yticks(marks, [str(mark + 1) for mark in marks])


def calibration(before: Reliability, after: Reliability | None) -> str:
    """Draw accuracy over confidence before and after temperature scaling, and the histogram of confidence."""
    drawn = [(before, ORANGE, "s", "as trained"), *([(after, BLUE, "o", "with temperature")] if after else [])]

    def paint(figure: Figure) -> None:
        curve, counts = figure.subplots(1, 2, width_ratios=(1, 1))
        curve.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle=(0, (4, 4)), label="perfect")
        for found, colour, marker, name in drawn:
            xs = [one.confidence for one in found.bins]
            curve.plot(xs, [one.accuracy for one in found.bins], color=colour, alpha=0.35, linewidth=1.4)
            sizes = [12 + 110 * (one.n / max(o.n for o in found.bins)) ** 0.5 for one in found.bins]
            curve.scatter(
                xs, [one.accuracy for one in found.bins], s=sizes, color=colour, marker=marker, label=name,
                edgecolor=SURFACE, linewidth=0.8, zorder=3, clip_on=False,
            )  # fmt: skip
        curve.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.02), aspect="equal")
        curve.grid(visible=True, axis="both")
        _draw_histogram(counts, drawn)
        # Above the axes, since a curve may pass every corner of them.
        legend = figure.legend(*curve.get_legend_handles_labels(), loc="outside upper left", ncols=3)
        for handle in legend.legend_handles:
            if isinstance(handle, PathCollection):
                handle.set_sizes([50])

    return draw_inline_svg("calibration", (WIDTH, 400), "reliability diagram: accuracy over confidence", paint)


def _draw_histogram(axes: Axes, drawn: Sequence[tuple[Reliability, str, str, str]]) -> None:
    for place, (found, colour, _, _) in enumerate(drawn):
        width = 0.9 / len(drawn)
        for one in found.bins:
            span = one.high - one.low
            left = one.low + span * (0.05 + place * width)
            axes.bar(left, one.n, width=span * width, align="edge", color=colour, alpha=0.85, linewidth=0)
    axes.set(xlabel="confidence", ylabel="images", xlim=(0, 1))
    counts = [one.n for found, *_ in drawn for one in found.bins if one.n]
    if max(counts, default=1) <= LINEAR_UP_TO * min(counts, default=1):
        return
    axes.set(ylabel="images, logarithmic", yscale="log")
    axes.set_ylim(bottom=0.8)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 1 else "")
    axes.yaxis.set_minor_formatter(lambda value, _: "")


def robustness(corruptions: Mapping[str, Sequence[Condition]], clean: float, *, name: str = "robustness") -> str:
    """Draw a small panel for each corruption: accuracy over severity with its interval, and the accuracy `clean`.

    `name` tells the charts of a page apart.
    """
    columns = min(5, max(1, len(corruptions)))
    rows = -(-len(corruptions) // columns)

    def paint(figure: Figure) -> None:
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axes in grid.flat[len(corruptions) :]:
            axes.set_visible(False)
        for axes, (kind, points) in zip(grid.flat, corruptions.items(), strict=False):
            _draw_panel(axes, kind, points, clean)
        grid[0][0].set_ylim(0, 1.04)
        figure.supxlabel("severity", color=MUTED, fontsize=12)
        figure.supylabel("accuracy", color=MUTED, fontsize=12)

    return draw_inline_svg(name, (WIDTH, 50 + 175 * rows), "accuracy by corruption and severity", paint)


def _draw_panel(axes: Axes, name: str, points: Sequence[Condition], clean: float) -> None:
    xs = [point.severity for point in points]
    ys = [point.accuracy for point in points]
    lows, highs = zip(*(point.interval for point in points), strict=True) if points else ((), ())
    axes.axhline(clean, color=FAINT, linewidth=1, linestyle=(0, (4, 4)))
    axes.fill_between(xs, lows, highs, color=BLUE, alpha=0.16, linewidth=0)
    axes.plot(xs, ys, "o-", color=BLUE, markersize=4.5, clip_on=False)
    axes.set_title(name, fontsize=12, color=INK, loc="left", pad=8)
    axes.set_xticks(range(1, 6))
    if points:
        axes.annotate(
            f"{ys[-1]:.2f}", (xs[-1], ys[-1]), (0, -10 if ys[-1] > 0.14 else 10), textcoords="offset points",
            ha="right", va="top" if ys[-1] > 0.14 else "bottom", fontsize=11, color=INK,
        )  # fmt: skip


def trial_curve(curve: Sequence[float], best_epoch: int, metric: str) -> str:
    """Draw the metric after each epoch of one run, with a mark at the epoch that was kept."""

    def paint(figure: Figure) -> None:
        axes = plain_axes(figure)
        axes.plot(range(1, len(curve) + 1), curve, "o-", color=BLUE, markersize=5, clip_on=False)
        if 1 <= best_epoch <= len(curve):
            axes.plot(
                [best_epoch], [curve[best_epoch - 1]], "o", markersize=11, markerfacecolor="none",
                markeredgecolor=ORANGE, markeredgewidth=1.8, clip_on=False, label=f"kept: epoch {best_epoch}",
            )  # fmt: skip
            legend_above(axes)
        axes.set(xlabel="epoch", ylabel=metric)
        axes.set_xticks(np.unique(np.linspace(1, len(curve), min(len(curve), 12)).round().astype(int)))

    return draw_inline_svg("curve", (WIDTH, 280), f"{metric} after each epoch", paint)
