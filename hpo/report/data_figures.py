"""Charts of a data set: histograms with their limits, classes, the map of the embeddings, the curve over images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hpo.figures.charts import (
    BLUE,
    FAINT,
    GREEN,
    INK,
    MUTED,
    ORANGE,
    PURPLE,
    RAMP,
    WIDTH,
    draw_inline_svg,
    legend_above,
    plain_axes,
)
from hpo.report.wording import percent, shortened

Values = npt.NDArray[np.floating]

BINS = 48

SMALL = (420, 168)
"""Width and height of a histogram of which two stand side by side."""

MOST_LABELLED = 30
"""Classes up to which the map writes their names."""

POINT_COLOURS = (
    BLUE, "#d98c00", GREEN, PURPLE, "#7a8794", "#b5485d", "#4aa8c9", "#8a7a2f", "#5c62b5", "#9bb03f",
)  # fmt: skip
"""Colours of classes on the map, which stand out from a white and from a black ground; the findings are orange."""

POINT_MARKERS = ("o", "s", "^", "D", "v")


class Limit(NamedTuple):
    """A line in a histogram, beyond which values are findings."""

    value: float
    above: bool
    """Whether the findings lie above it."""


def histogram(
    name: str, values: Values, limits: Sequence[Limit], unit: str, *, logarithmic: bool = False, noun: str = "images"
) -> str:  # fmt: skip
    """Draw how many `noun` have which value, in blue up to each limit and in orange beyond, on a square-root axis."""
    known = np.asarray(values, dtype=np.float64)
    known = known[np.isfinite(known)]
    edges = _edges(known, limits, logarithmic)
    counts, _ = np.histogram(np.clip(known, edges[0], edges[-1]), edges)

    def paint(figure: Figure) -> None:
        axes = plain_axes(figure)
        middles = (edges[1:] + edges[:-1]) / 2
        beyond = np.zeros(len(middles), dtype=bool)
        for limit in limits:
            beyond |= (middles > limit.value) == limit.above
        for chosen, colour in ((~beyond, RAMP[2]), (beyond, ORANGE)):
            axes.bar(edges[:-1][chosen], counts[chosen], np.diff(edges)[chosen], align="edge", color=colour)
        if logarithmic:
            axes.set_xscale("log")
            axes.set_xticks(_log_ticks(float(edges[0]), float(edges[-1])))
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.xaxis.set_minor_formatter(lambda *_: "")
        # Few findings beside many images would be flat on a linear axis.
        axes.set_yscale("function", functions=(np.sqrt, np.square))
        axes.set_ylim(0, max(1, counts.max(initial=1)) * 1.08)
        _few_ticks(axes, int(counts.max(initial=1)))
        for limit in limits:
            _limit_line(axes, limit)
        axes.set_xlim(edges[0], edges[-1])
        axes.set(xlabel=unit, ylabel=noun)

    limits_said = ", ".join(f"{limit.value:.3g}" for limit in limits)
    label = f"histogram of {unit}" + (f", limit {limits_said}" if limits else "")
    return draw_inline_svg(name, SMALL, label, paint)


def _edges(known: Values, limits: Sequence[Limit], logarithmic: bool) -> Values:
    """Return the borders of the bins; each limit that lies inside is one of them."""
    marks = np.array([*(known if len(known) else [0.0]), *(limit.value for limit in limits)], dtype=np.float64)
    if logarithmic:
        marks = np.maximum(marks, 1e-9)
        low, high = marks.min() * 0.9, marks.max() * 1.1
        edges = np.geomspace(low, high, BINS + 1)
    else:
        room = max(float(np.ptp(marks)), 1e-6) * 0.03
        edges = np.linspace(marks.min() - room, marks.max() + room, BINS + 1)
    for limit in limits:
        edges[int(np.abs(edges - limit.value).argmin())] = limit.value
    return np.unique(edges)


def _log_ticks(low: float, high: float) -> list[float]:
    """Return three to six round values from `low` to `high`, or both ends where there are no three."""
    for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), tuple(np.arange(10, 100) / 10)):
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        ticks = [float(f"{step * 10.0**power:.3g}") for power in decades for step in steps]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) >= 3:
            return ticks[:: -(-len(ticks) // 6)]
    return [float(f"{end:.3g}") for end in (low, high)]


def _few_ticks(axes: Axes, most: int) -> None:
    # On an axis of square roots a tick below 4 % of the highest would touch the zero.
    ticks = [tick for tick in (0, 10, 100, 1_000, 10_000, 100_000) if tick == 0 or 0.04 * most <= tick <= most]
    ticks = ticks if len(ticks) > 1 else [0, most]
    axes.set_yticks(ticks, [f"{tick:,}" for tick in ticks])


def _limit_line(axes: Axes, limit: Limit) -> None:
    axes.axvline(limit.value, color=ORANGE, linewidth=1.2, linestyle=(0, (4, 3)))
    axes.annotate(
        # Above the axes, where neither bars nor ticks are.
        f"limit {limit.value:.3g}", (limit.value, 1.0), (-6 if limit.above else 6, 3), textcoords="offset points",
        xycoords=("data", "axes fraction"), ha="left" if limit.above else "right", va="bottom", fontsize=11,
        color=ORANGE,
    )  # fmt: skip


class MapPoints(NamedTuple):
    """Images as points of a map."""

    places: Values
    """(n, 2) coordinates."""
    labels: npt.NDArray[np.int64]
    """(n,) class numbers."""
    marks: Mapping[str, npt.NDArray[np.int64]]
    """Kind of finding -> points that carry it."""
    dropped: npt.NDArray[np.bool_]
    """(n,) whether cleaning drops the image."""


MARKS = {
    "outlier": ("X", 7.0, ORANGE),
    "conflict": ("P", 7.0, ORANGE),
    "copy": ("s", 5.0, "none"),
    "label": ("o", 9.0, "none"),
    "odd": ("D", 7.0, "none"),
    "leak": ("^", 8.0, "none"),
}
"""Kind of finding -> matplotlib's marker, its size and its filling; the edge is always ink or orange."""


def embedding_map(points: MapPoints, classes: Sequence[str]) -> str:
    """Draw the map twice: as the data are, with the findings marked, and as they are after cleaning."""

    def paint(figure: Figure) -> None:
        before, after = figure.subplots(1, 2, sharex=True, sharey=True)
        kept = ~points.dropped
        for axes, shown, title in (
            (before, np.ones(len(kept), dtype=bool), f"before cleaning: {len(kept):,} images"),
            (after, kept, f"after cleaning: {int(kept.sum()):,} of them"),
        ):
            _draw_points(axes, points, shown, classes)
            axes.set_title(title, fontsize=12, color=INK, loc="left", pad=8)
        _draw_marks(before, points)
        _write_names(after, points, kept, classes)
        handles, names = before.get_legend_handles_labels()
        if handles:
            figure.legend(handles, names, loc="outside lower left", ncols=7, fontsize=12, handletextpad=0.3)

    return draw_inline_svg(
        "map", (WIDTH, 480), "map of the embeddings, coloured by class, before and after cleaning", paint
    )


def _draw_points(axes: Axes, points: MapPoints, shown: npt.NDArray[np.bool_], classes: Sequence[str]) -> None:
    axes.grid(visible=False)
    axes.spines["bottom"].set_visible(False)
    axes.set_xticks([])
    axes.set_yticks([])
    size = 3.2 if len(points.places) > 800 else 4.5
    for label in range(len(classes)):
        of_class = shown & (points.labels == label)
        if of_class.any():
            colour = POINT_COLOURS[label % len(POINT_COLOURS)]
            marker = POINT_MARKERS[label // len(POINT_COLOURS) % len(POINT_MARKERS)]
            axes.plot(*points.places[of_class].T, marker, color=colour, markersize=size, markeredgewidth=0, alpha=0.65)


def _draw_marks(axes: Axes, points: MapPoints) -> None:
    for kind, rows in points.marks.items():
        if len(rows) and kind in MARKS:
            marker, size, filling = MARKS[kind]
            axes.plot(
                *points.places[rows].T, marker, markersize=size, markerfacecolor=filling, label=kind,
                markeredgecolor=INK, markeredgewidth=0.9, alpha=0.9,
            )  # fmt: skip


def _write_names(axes: Axes, points: MapPoints, shown: npt.NDArray[np.bool_], classes: Sequence[str]) -> None:
    """Write the name of each class at the median of its points."""
    if len(classes) > MOST_LABELLED:
        return
    for label, name in enumerate(classes):
        of_class = points.places[shown & (points.labels == label)]
        if len(of_class):
            x, y = np.median(of_class, axis=0)
            axes.annotate(
                shortened(name, 18), (x, y), ha="center", va="center", fontsize=11, color=INK,
                bbox={"facecolor": "#fefefe", "edgecolor": "none", "alpha": 0.7, "pad": 1.5},
            )  # fmt: skip


def image_curve(shares: Sequence[float], accuracies: Sequence[float], bound: float | None, target: str) -> str:
    """Draw the probe's accuracy over the share of the images, and the upper bound of the accuracy as a line."""

    def paint(figure: Figure) -> None:
        axes = plain_axes(figure)
        if bound is not None:
            axes.axhline(bound, color=FAINT, linewidth=1.2, linestyle=(0, (4, 4)), label=f"bound {bound:.3f}")
        axes.plot(shares, accuracies, "o-", color=BLUE, markersize=6, label=target, clip_on=False)
        axes.set_xscale("log")
        axes.set_xticks(list(shares), [percent(share) for share in shares])
        axes.xaxis.set_minor_formatter(lambda *_: "")
        for share, accuracy in zip(shares, accuracies, strict=True):
            axes.annotate(
                f"{accuracy:.3f}", (share, accuracy), (0, -9), textcoords="offset points", ha="center", va="top",
                fontsize=11, color=INK,
            )  # fmt: skip
        low, high = min(accuracies), max([*accuracies, bound or 0.0])
        room = max(high - low, 0.02)
        axes.set_ylim(low - 0.25 * room, min(1.005, high + 0.15 * room))
        axes.set(xlabel="share of the images trained on", ylabel="accuracy")
        legend_above(axes)

    return draw_inline_svg("curve", (WIDTH, 300), "accuracy over the share of the images", paint)


def class_bars(names: Sequence[str], parts: Mapping[str, Sequence[int]]) -> str:
    """Draw the images of each class as a bar, one piece for each part."""
    shades = dict(zip(parts, (RAMP[3], GREEN, PURPLE, ORANGE), strict=False))

    def paint(figure: Figure) -> None:
        axes = plain_axes(figure)
        places = np.arange(len(names))[::-1]
        left = np.zeros(len(names))
        for part, counts in parts.items():
            axes.barh(places, counts, left=left, height=0.62, color=shades.get(part, MUTED), label=part)
            left = left + np.asarray(counts)
        axes.set_yticks(places, [shortened(name, 28) for name in names])
        axes.grid(visible=False)
        axes.spines["bottom"].set_visible(False)
        axes.set_xticks([])
        axes.set_xlim(0, left.max(initial=1) * 1.1 or 1)
        for place, total in zip(places, left, strict=True):
            axes.annotate(f"{total:,.0f}", (total, place), (6, 0), textcoords="offset points", va="center", color=MUTED)
        if len(parts) > 1:
            legend_above(axes)

    return draw_inline_svg("class-bars", (WIDTH, 60 + 26 * max(1, len(names))), "images of each class", paint)
