"""Charts of a search as SVG: history, learning curves, importance, progress, parallel coordinates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hpo.figures.charts import (
    BLUE,
    FAINT,
    INK,
    LINE,
    MUTED,
    ORANGE,
    RAMP,
    STATES,
    SURFACE,
    WIDTH,
    draw_inline_svg,
    legend_above,
    plain_axes,
)
from hpo.report import wording
from hpo.report.study_data import TrialData

MOST_POINTS = 1_500

MOST_LINES = 400


def thinned(trials: Sequence[TrialData], most: int) -> list[TrialData]:
    """Return at most `most` trials, a quarter of them the best, the others every n-th; in order of their numbers."""
    if len(trials) <= most:
        return list(trials)
    ranked = sorted(trials, key=lambda trial: -(trial.value if trial.value is not None else -np.inf))
    best, others = ranked[: most // 4], sorted(ranked[most // 4 :], key=lambda trial: trial.number)
    chosen = np.linspace(0, len(others) - 1, most - len(best)).astype(int)
    return sorted([*best, *(others[i] for i in chosen)], key=lambda trial: trial.number)


def floor_of(values: Iterable[float]) -> float:
    """Return the start of a chart's axis, so that a collapsed trial does not squeeze the others together.

    It is the lowest value, or a lower fence as in Tukey's box plot (3 in place of 1.5 interquartile ranges) if that
    saves a quarter of the axis.
    """
    known = np.array([value for value in values if np.isfinite(value)])
    if not len(known):
        return 0.0
    low, high = np.quantile(known, [0.25, 0.75])
    lowest, fence = float(known.min()), float(low - 3 * max(high - low, 1e-3))
    worth_it = fence - lowest > 0.25 * float(known.max() - lowest)
    return fence if worth_it else lowest


def history(trials: Sequence[TrialData], metric: str) -> str:
    """Draw value over the number of the trial, by state, and the running best of the complete ones."""
    valued = [trial for trial in trials if trial.value is not None]
    floor = floor_of(trial.value or 0.0 for trial in valued)

    def paint(figure: Figure) -> None:
        axes = plain_axes(figure)
        complete = [(t.number, t.value) for t in valued if t.state == "complete" and t.value is not None]
        _steps(axes, complete, max((t.number for t in valued), default=0), alpha=0.55, label="best so far")
        shown = thinned(valued, MOST_POINTS)
        for state, (colour, marker) in STATES.items():
            _points(axes, [t for t in shown if t.state == state], (colour, marker, state), floor)
        axes.set(xlabel="trial", ylabel=metric)
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
        _begin(axes, floor)
        legend_above(axes)

    return draw_inline_svg("history", (WIDTH, 330), f"{metric} of each trial, and the best so far", paint)


def _steps(axes: Axes, pairs: Sequence[tuple[float, float]], end: float, **look: Any) -> None:
    """Draw a step line through the pairs (place, value) with a new best value, up to the place `end`."""
    best = list(accumulate((value for _, value in pairs), max))
    kept = [i for i in range(len(best)) if i == 0 or best[i] > best[i - 1]]
    if kept:
        places, values = [pairs[i][0] for i in kept], [best[i] for i in kept]
        axes.step([*places, max(end, places[-1])], [*values, values[-1]], where="post", color=BLUE, **look)


def _points(axes: Axes, trials: Sequence[TrialData], look: tuple[str, str, str], floor: float) -> None:
    if not trials:
        return
    colour, marker, state = look
    size = 9 if len(trials) <= 60 else 6 if len(trials) <= 300 else 4
    edge = (colour, 1.6) if marker == "x" else (SURFACE, 0.8 if size > 4 else 0)
    values = [max(floor, trial.value or 0.0) for trial in trials]
    axes.plot(
        [t.number for t in trials], values, marker, color=colour, markersize=size, label=state, clip_on=False,
        zorder=3, markeredgecolor=edge[0], markeredgewidth=edge[1],
    )  # fmt: skip


def _begin(axes: Axes, floor: float) -> None:
    """Start the axis of values slightly below `floor`, with a height above 0."""
    _, high = axes.get_ylim()
    room = max(high - floor, 1e-3)
    axes.set_ylim(floor - 0.06 * room, floor + 1.02 * room)


def learning_curves(trials: Sequence[TrialData], best: int | None, metric: str) -> str:
    """Draw the metric after each epoch of every trial, with the best trial emphasised."""
    curved = [trial for trial in trials if trial.curve]
    floor = floor_of(value for trial in curved for value in trial.curve)
    groups = {"complete": BLUE, "pruned": FAINT, "other": ORANGE}

    def paint(figure: Figure) -> None:
        axes = plain_axes(figure)
        shown = thinned(curved, MOST_LINES)
        alpha = float(np.clip(24 / max(1, len(shown)), 0.12, 0.85))
        for state, colour in groups.items():
            lines = [t for t in shown if (t.state if t.state in groups else "other") == state and t.number != best]
            _curves(axes, lines, (colour, alpha, state))
        _best_curve(axes, next((t for t in curved if t.number == best), None))
        axes.set(xlabel="epoch", ylabel=metric)
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
        axes.autoscale_view()
        _begin(axes, floor)
        legend_above(axes)

    return draw_inline_svg("curves", (WIDTH, 340), f"{metric} after each epoch of every trial", paint)


def _curves(axes: Axes, trials: Sequence[TrialData], look: tuple[str, float, str]) -> None:
    if not trials:
        return
    colour, alpha, state = look
    lines = [[(epoch, value) for epoch, value in enumerate(t.curve, start=1)] for t in trials]
    axes.add_collection(LineCollection(lines, colors=colour, alpha=alpha, linewidths=1.5))
    alone = [line[0] for line in lines if len(line) == 1]
    axes.plot(
        [x for x, _ in alone], [y for _, y in alone], "o", color=colour, alpha=alpha, markersize=4.5, markeredgewidth=0
    )
    axes.plot([], [], color=colour, alpha=max(alpha, 0.5), label=state if state != "other" else "running or failed")


def _best_curve(axes: Axes, trial: TrialData | None) -> None:
    if trial is None:
        return
    epochs = range(1, len(trial.curve) + 1)
    axes.plot(
        epochs, trial.curve, "o-", color=INK, linewidth=2.2, markersize=5, label=f"best (trial {trial.number})",
        clip_on=False, zorder=4,
    )  # fmt: skip
    for curve, style, name in ((trial.record.clean_curve, "--", "clean"), (trial.record.altered_curve, ":", "altered")):
        values = [curve[step] for step in sorted(curve, key=int)]
        if len(values) == len(epochs):
            axes.plot(epochs, values, style, color=INK, linewidth=1.4, label=f"its {name} images", zorder=4)


def importance(shares: Mapping[str, float]) -> str:
    """Draw a bar for each parameter's share, the largest on top."""
    names = list(shares)[:20]
    values = [shares[name] for name in names]

    def paint(figure: Figure) -> None:
        axes = plain_axes(figure)
        places = np.arange(len(names))[::-1]
        axes.barh(places, values, height=0.5, color=RAMP[3])
        axes.set_yticks(places, [wording.shortened(name, 40) for name in names])
        axes.grid(visible=False)
        axes.spines["bottom"].set_visible(False)
        axes.set_xticks([])
        axes.set_xlim(0, max(values, default=1) * 1.12 or 1)
        for place, value in zip(places, values, strict=True):
            axes.annotate(
                wording.percent(value), (value, place), (6, 0), textcoords="offset points", va="center", color=MUTED
            )

    return draw_inline_svg("importance", (WIDTH, 40 + 28 * max(1, len(names))), "importance of each parameter", paint)


def progress(trials: Sequence[TrialData], metric: str) -> str:
    """Draw the best value so far over the time since the search began; at least one trial must be complete."""
    ended = sorted(
        (t.ended, t.value) for t in trials if t.state == "complete" and t.ended is not None and t.value is not None
    )
    end = max((t.ended for t in trials if t.ended is not None), default=0.0)
    unit, word = (3_600, "hours") if end > 2 * 3_600 else (60, "minutes")
    floor = floor_of(value for _, value in ended)
    # Lower values are drawn at the lower edge, as in the history: the layout makes room for everything drawn.
    pairs = [(seconds / unit, max(floor, value)) for seconds, value in ended]

    def paint(figure: Figure) -> None:
        axes = plain_axes(figure)
        _steps(axes, pairs, end / unit)
        axes.plot(*zip(*pairs, strict=True), "o", color=BLUE, markersize=5, clip_on=False, alpha=0.6)
        axes.set_xlim(left=0)
        axes.set(xlabel=f"{word} since the first trial began", ylabel=f"best {metric}")
        _begin(axes, floor)

    return draw_inline_svg("progress", (WIDTH, 260), f"best {metric} over time", paint)


MOST_AXES = 9

MOST_TICKS = 6

ABSENT = -0.12
"""Height at which a line crosses an axis for which its trial has no value."""

_LOGARITHMIC = 30.0
"""Ratio of the largest to the smallest positive value above which an axis is logarithmic."""


@dataclass(frozen=True)
class Scale:
    """One axis of parallel coordinates, with positions from 0 to 1."""

    name: str
    ticks: tuple[tuple[float, str], ...]
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    choices: tuple[str, ...] = ()

    @classmethod
    def of(cls, name: str, values: Sequence[Any]) -> Scale:
        """Return the axis for these values: numbers, or choices otherwise."""
        if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
            return cls._of_numbers(name, sorted(set(map(float, values))))
        choices = tuple(sorted({wording.value(value) for value in values}))
        step = max(1, -(-len(choices) // 12))
        last = max(1, len(choices) - 1)
        return cls(name, tuple((i / last, choices[i]) for i in range(0, len(choices), step)), choices=choices)

    @classmethod
    def _of_numbers(cls, name: str, values: Sequence[float]) -> Scale:
        low, high = values[0], values[-1]
        bare = cls(name, (), low, high, low > 0 and high / low > _LOGARITHMIC)
        marked = values if len(values) <= MOST_TICKS else bare._spread()
        ticks = tuple((bare.place(value), wording.value(float(f"{value:.3g}"))) for value in marked)
        return cls(name, ticks, low, high, bare.log)

    def place(self, value: Any) -> float:
        """Return the height of `value`."""
        if self.choices:
            return self.choices.index(wording.value(value)) / max(1, len(self.choices) - 1)
        if self.high == self.low:
            return 0.5
        low, high, at = np.log([self.low, self.high, value]) if self.log else (self.low, self.high, float(value))
        return float((at - low) / (high - low))

    def _spread(self) -> Sequence[float]:
        """Return numbers at even distances on the axis, including its ends."""
        spread = np.geomspace if self.log else np.linspace
        return [float(value) for value in spread(self.low, self.high, 5)]


def parallel(trials: Sequence[TrialData], names: Sequence[str], best: int | None, metric: str) -> str:
    """Draw a line for each of `trials`, all with a value, through the axes `names` (at most MOST_AXES) and the value.

    The shade of a line stands for the trial's quintile; the best are drawn last.
    """
    ordered = sorted(trials, key=lambda trial: trial.value or 0.0)
    scales = [Scale.of(name, [t.params[name] for t in ordered if name in t.params]) for name in names[:MOST_AXES]]
    scales.append(Scale.of(metric, [trial.value for trial in ordered]))

    def paint(figure: Figure) -> None:
        axes = plain_axes(figure)
        lines = [_line(trial, scales) for trial in ordered]
        _shaded(axes, lines)
        for line in (line for line, trial in zip(lines, ordered, strict=True) if trial.number == best):
            axes.plot(*zip(*line, strict=True), color=INK, linewidth=2.4, zorder=4)
        for place, scale in enumerate(scales):
            _axis(axes, place, scale)
        _frame(axes, scales, any(y == ABSENT for line in lines for _, y in line))

    return draw_inline_svg("parallel", (WIDTH, 400), f"parameters of each trial and its {metric}", paint)


def _line(trial: TrialData, scales: Sequence[Scale]) -> list[tuple[float, float]]:
    values = [*(trial.params.get(scale.name) for scale in scales[:-1]), trial.value]
    return [(x, ABSENT if v is None else s.place(v)) for x, (s, v) in enumerate(zip(scales, values, strict=True))]


def _shaded(axes: Axes, lines: Sequence[Sequence[tuple[float, float]]]) -> None:
    """Draw lines, which are in the order of their trials' values, in five shades."""
    alpha = float(np.clip(60 / max(1, len(lines)), 0.25, 0.9))
    for shade, group in zip(RAMP, np.array_split(np.arange(len(lines)), len(RAMP)), strict=True):
        if len(group):
            axes.add_collection(LineCollection([lines[i] for i in group], colors=shade, linewidths=1.3, alpha=alpha))


def _axis(axes: Axes, place: int, scale: Scale) -> None:
    axes.plot([place, place], [0, 1], color=FAINT, linewidth=1, zorder=5)
    for height, text in scale.ticks:
        axes.plot([place - 0.015, place + 0.015], [height, height], color=FAINT, linewidth=1, zorder=5)
        axes.annotate(
            wording.shortened(text, 18), (place, height), (5, 0), textcoords="offset points", va="center",
            fontsize=10, color=MUTED, zorder=6, bbox={"color": SURFACE, "alpha": 0.85, "pad": 1, "linewidth": 0},
        )  # fmt: skip


def _broken(name: str) -> str:
    """Return the name in lines of one word each, none too long for its column."""
    return "\n".join(wording.shortened(word, 14) for word in name.split("_")[:3])


def _frame(axes: Axes, scales: Sequence[Scale], absent: bool) -> None:
    axes.grid(visible=False)
    axes.spines["bottom"].set_visible(False)
    axes.set_yticks([])
    axes.set_xticks(range(len(scales)), [_broken(scale.name) for scale in scales], fontsize=11)
    axes.xaxis.tick_top()
    axes.tick_params(axis="x", labelcolor=INK, pad=10)
    axes.set_xlim(-0.15, len(scales) - 1 + 0.55)
    axes.set_ylim(ABSENT - 0.04 if absent else -0.04, 1.04)
    if absent:
        axes.axhline(ABSENT, color=LINE, linewidth=1, zorder=0)
        axes.annotate("not used", (-0.15, ABSENT), (0, 3), textcoords="offset points", fontsize=10, color=MUTED)
