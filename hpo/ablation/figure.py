"""An ablation as a figure: a bar per part with its interval and the seeds, and beside them the interactions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from hpo.ablation.contribution import Difference
from hpo.ablation.outcome import Line, Outcome
from hpo.comparison.drawing import BLUE, GREY, ORANGE, ruled, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = {"more": BLUE, "less": ORANGE, "open": GREY}


def draw(found: Sequence[Outcome]) -> Figure:
    """A row per metric: contributions, and interactions where pairs were run; grey where the interval holds 0."""
    from matplotlib.figure import Figure

    longest = max(4, *(max(len(one.parts), len(one.pairs)) for one in found))
    columns = 2 if found[0].pairs else 1
    with styled():
        size = (11 if columns == 2 else 7.5, len(found) * (1.2 + 0.3 * longest))
        figure = Figure(figsize=size, layout="constrained")
        for one, panels in zip(found, figure.subplots(len(found), columns, squeeze=False), strict=True):
            _bars(panels[0], one.parts, lambda line: line.contribution)
            panels[0].set_xlabel(f"contribution to {one.metric}, in points")
            if columns == 2:
                _bars(panels[1], one.pairs, lambda line: line.interaction)
                panels[1].set_xlabel("interaction: joint contribution minus the sum, in points")
    return figure


def _bars(axes: Axes, lines: Sequence[Line], of: Callable[[Line], Difference | None]) -> None:
    known = [(line, found) for line in lines if (found := of(line)) is not None]
    for place, (_, found) in enumerate(known):
        axes.barh(place, 100 * found.mean, color=_COLOURS[found.verdict], alpha=0.6, height=0.62)
        if found.interval is not None:
            ends = [100 * end for end in found.interval]
            axes.plot(ends, [place, place], color="black", linewidth=1, marker="|", markersize=7)
        values = [100 * value for value in found.values]
        axes.plot(values, [place] * len(values), "o", color="black", markersize=2.5, alpha=0.7)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(known)), [line.name for line, _ in known])
    axes.set_ylim(len(known) - 0.4, -0.6)
    ruled(axes, axis="x")
