"""Parallel coordinates: one axis for each parameter, one line for each trial, shaded by its value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from hpo.report import wording
from hpo.report.drawing import WIDTH, draw, plain_axes
from hpo.report.palette import FAINT, INK, LINE, MUTED, RAMP, SURFACE
from hpo.report.study_facts import TrialFacts

MOST_AXES = 9
MOST_TICKS = 6
ABSENT = -0.12
"""Height at which a line passes an axis that its trial has no value for."""
_LOGARITHMIC = 30.0
"""Positive numbers over a wider span than this are drawn on a logarithmic axis."""


@dataclass(frozen=True)
class Scale:
    """One axis: where a value lies on it, from 0 to 1."""

    name: str
    ticks: tuple[tuple[float, str], ...]
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    choices: tuple[str, ...] = ()

    @classmethod
    def of(cls, name: str, values: Sequence[Any]) -> Scale:
        """The axis for these values: numbers, or anything else as choices."""
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
        """Height of `value`."""
        if self.choices:
            return self.choices.index(wording.value(value)) / max(1, len(self.choices) - 1)
        if self.high == self.low:
            return 0.5
        low, high, at = np.log([self.low, self.high, value]) if self.log else (self.low, self.high, float(value))
        return float((at - low) / (high - low))

    def _spread(self) -> Sequence[float]:
        """Numbers at even distances on the axis, its ends among them."""
        spread = np.geomspace if self.log else np.linspace
        return [float(value) for value in spread(self.low, self.high, 5)]


def parallel(trials: Sequence[TrialFacts], names: Sequence[str], best: int | None, metric: str) -> str:
    """Lines of `trials`, all with a value, through the axes `names` (at most MOST_AXES) and the one of the value.

    The shade of a line is the fifth of all trials that it belongs to; the best are drawn last.
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

    return draw("parallel", (WIDTH, 400), f"parameters of each trial and its {metric}", paint)


def _line(trial: TrialFacts, scales: Sequence[Scale]) -> list[tuple[float, float]]:
    values = [*(trial.params.get(scale.name) for scale in scales[:-1]), trial.value]
    return [(x, ABSENT if v is None else s.place(v)) for x, (s, v) in enumerate(zip(scales, values, strict=True))]


def _shaded(axes: Axes, lines: Sequence[Sequence[tuple[float, float]]]) -> None:
    """Lines in the order of their trials' values, in five shades."""
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
    """The name in lines of one word each, none too long for its column."""
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
