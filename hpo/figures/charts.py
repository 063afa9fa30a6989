"""Charts by matplotlib: as SVG elements inside a page with light and dark themes, and as files on white.

Colours are those of Okabe and Ito (2008), which all kinds of colour vision can tell apart. On a page they are darkened
or lightened until they contrast with the background. A colour never carries a meaning alone: markers differ as well.

A chart of a page is drawn in the light colours, which `draw_inline_svg` replaces by CSS variables, so that one SVG
follows the reader's theme.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from markupsafe import escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

ROLES = {
    "ink": ("#1c2733", "#e7ebf0"),
    "muted": ("#5a6675", "#9eabb9"),
    "faint": ("#98a3b0", "#657384"),
    "line": ("#dde3ea", "#2c3744"),
    "surface": ("#fefefe", "#12181f"),
    "panel": ("#f4f6f9", "#1a222c"),
    "blue": ("#0a6ab4", "#5db2f2"),
    "orange": ("#c9540a", "#ff9d5c"),
    "green": ("#00856a", "#43cfa3"),
    "purple": ("#9c4f8a", "#dd9bc9"),
    "ramp1": ("#d3dbe3", "#303c4a"),
    "ramp2": ("#aac4dc", "#38597a"),
    "ramp3": ("#73a6d0", "#417eb0"),
    "ramp4": ("#3b88c3", "#519fdc"),
    "ramp5": ("#0a5c9e", "#7cc4fb"),
}
"""Role -> (light, dark). Light values differ from one another, since a chart identifies its roles by them."""

INK, MUTED, FAINT, LINE, SURFACE = (ROLES[role][0] for role in ("ink", "muted", "faint", "line", "surface"))

BLUE, ORANGE, GREEN, PURPLE = (ROLES[role][0] for role in ("blue", "orange", "green", "purple"))

RAMP = tuple(ROLES[f"ramp{step}"][0] for step in range(1, 6))
"""From low to high; the lightness changes monotonically."""

STATES = {"complete": (BLUE, "o"), "pruned": (FAINT, "v"), "failed": (ORANGE, "x"), "running": (GREEN, "s")}
"""State of a trial -> its colour and matplotlib's marker."""

VARIABLES = {light: f"var(--{role})" for role, (light, _) in ROLES.items()}
"""Light value -> the CSS variable of its role."""

PRINT_BLUE, PRINT_ORANGE, PRINT_GREEN, PRINT_GREY = "#0072B2", "#D55E00", "#009E73", "#888888"

PRINT_PURPLE = "#CC79A7"
"""Colours of charts in files, which always have a white background."""

WIDTH = 880
"""Width of a chart that fills the column of a page, in CSS pixels; one unit of the SVG is one pixel there."""

_POINTS_PER_INCH = 72

# The fixed salt makes the ids in an SVG, and so the file, the same for the same chart.
_STYLE: Any = {
    "svg.hashsalt": "hpo",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
}

# Text of a file is drawn as paths, which need no font on the reader's machine.
_FILE_STYLE: Any = {**_STYLE, "font.size": 9, "svg.fonttype": "path"}

_PAGE_STYLE: Any = {
    **_STYLE,
    "svg.fonttype": "none",
    "text.parse_math": False,  # a class may be called $x$
    "axes.unicode_minus": True,
    "font.size": 12,
    "axes.labelsize": 12,
    "axes.labelcolor": MUTED,
    "axes.labelpad": 8,
    "axes.edgecolor": LINE,
    "axes.linewidth": 1,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": LINE,
    "grid.linewidth": 1,
    "text.color": INK,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 11.5,
    "ytick.labelsize": 11.5,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "xtick.major.pad": 7,
    "ytick.major.pad": 7,
    "legend.frameon": False,
    "legend.fontsize": 12,
    "legend.labelcolor": MUTED,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.h_pad": 0.05,
    "figure.constrained_layout.w_pad": 0.05,
    "figure.constrained_layout.wspace": 0.06,
    "figure.constrained_layout.hspace": 0.06,
}


def declarations(*, dark: bool) -> str:
    """Return the roles as CSS custom properties, for one theme."""
    return " ".join(f"--{role}: {values[dark]};" for role, values in ROLES.items())


def draw_inline_svg(name: str, size: tuple[int, int], label: str, paint: Callable[[Figure], None]) -> str:
    """Return what `paint` draws on a figure of `size` (width, height) in CSS pixels, as an `<svg>` element.

    `name` makes its ids differ from those of other charts; `label` describes the chart for screen readers.
    """
    with mpl.rc_context(_PAGE_STYLE), warnings.catch_warnings():
        # The browser draws the text in its own fonts; matplotlib's font only measures it and may lack the script.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(size[0] / _POINTS_PER_INCH, size[1] / _POINTS_PER_INCH))
        figure.patch.set_visible(False)
        paint(figure)
        written = io.BytesIO()
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(written, format="svg", metadata=nothing, transparent=True)
    return _inline(written.getvalue().decode(), name, size, label)


def _inline(text: str, name: str, size: tuple[int, int], label: str) -> str:
    """Return the content of a whole SVG document as an element with the page's colours and fonts."""
    body = text[text.index(">", text.index("<svg")) + 1 : text.rindex("</svg>")]
    body = re.sub(r"<style.*?</style>|<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'style="[^"]*"', _themed, body)
    body = _named(body.replace("xlink:href", "href"), name)
    body = re.sub(r"\n\s*", "\n", body)
    return (
        f'<svg viewBox="0 0 {size[0]} {size[1]}" style="max-width: {size[0]}px" role="img" '
        f'aria-label="{escape(label)}">{body}</svg>'
    )


def _themed(style: re.Match[str]) -> str:
    """Return the style with CSS variables in place of light colours, and without a font family."""
    text = re.sub(r"font-family: [^;\"]*;?\s*", "", style.group())
    return re.sub(r"#[0-9a-f]{6}", lambda colour: VARIABLES.get(colour.group(), colour.group()), text)


def _named(body: str, name: str) -> str:
    """Prefix ids that are referred to by the chart's name, so that they are unique on the page; drop the others."""
    referred = set(re.findall(r'(?:url\(#|href="#)([\w.-]+)', body))
    body = re.sub(r' id="([\w.-]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in referred else "", body)
    return re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", body)


def plain_axes(figure: Figure) -> Axes:
    """Return the only axes of the figure."""
    axes: Axes = figure.subplots()
    return axes


def legend_above(axes: Axes, columns: int = 6) -> None:
    """Add a legend in one line above the axes, at the left."""
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1.0), ncols=columns, borderaxespad=0, borderpad=0.3, handlelength=1.4,
        columnspacing=1.8, handletextpad=0.6,
    )  # fmt: skip


@contextmanager
def file_style() -> Iterator[None]:
    """Apply the style of charts in files inside the block; figures must be made and saved inside it."""
    with mpl.rc_context(_FILE_STYLE):
        yield


def add_grid(axes: Axes, **which: Any) -> None:
    """Add a light grid behind a chart in a file."""
    axes.grid(color="#dddddd", linewidth=0.6, **which)


def figure_files(figure: Figure) -> dict[str, bytes]:
    """Return the chart as `figure.svg` and `figure.png`."""
    options: dict[str, dict[str, Any]] = {"svg": {"metadata": {"Date": None}}, "png": {"dpi": 160}}
    files = {}
    with file_style():
        for suffix, chosen in options.items():
            content = io.BytesIO()
            figure.savefig(content, format=suffix, facecolor="white", **chosen)
            files[f"figure.{suffix}"] = content.getvalue()
    return files
