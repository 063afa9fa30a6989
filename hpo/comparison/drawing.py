"""How figures of a comparison or an ablation look, and their files."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#888888"
"""Of Okabe and Ito's colours, which colour-blind readers tell apart."""
MARKS: dict[str, Any] = {"markersize": 4.5, "capsize": 2, "linewidth": 1}
_STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "svg.hashsalt": "hpo",
    "svg.fonttype": "path",
}
"""The same file for the same figures, and text that needs no font where it is shown."""


@contextmanager
def styled() -> Iterator[None]:
    """Figures that are made or written inside look alike."""
    from matplotlib import rc_context

    with rc_context(_STYLE):
        yield


def ruled(axes: Axes, **which: Any) -> None:
    """A light grid behind the figures."""
    axes.grid(color="#dddddd", linewidth=0.6, **which)


def render(figure: Figure) -> dict[str, bytes]:
    """`figure.svg` and `figure.png`."""
    options: dict[str, dict[str, Any]] = {"svg": {"metadata": {"Date": None}}, "png": {"dpi": 160}}
    files = {}
    with styled():
        for suffix, given in options.items():
            content = io.BytesIO()
            figure.savefig(content, format=suffix, facecolor="white", **given)
            files[f"figure.{suffix}"] = content.getvalue()
    return files
