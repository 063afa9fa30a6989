"""The colours of the report: roles, each with a light and a dark value.

Figures are drawn in the light values; `drawing` turns these into CSS variables, so that one SVG follows the reader's
theme. The hues are those of Okabe and Ito (2008), told apart with any colour vision, darkened or lightened until they
stand out from the page; the ramp runs in lightness too. No meaning hangs on a colour alone: markers differ as well.

A matplotlib figure as SVG for the inside of a page: its fonts and its colours, light and dark, are the page's.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable

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
"""Role -> (light, dark). Light values differ from one another: they are how a figure names its roles."""

INK, MUTED, FAINT, LINE, SURFACE = (ROLES[role][0] for role in ("ink", "muted", "faint", "line", "surface"))

BLUE, ORANGE, GREEN, PURPLE = (ROLES[role][0] for role in ("blue", "orange", "green", "purple"))

RAMP = tuple(ROLES[f"ramp{step}"][0] for step in range(1, 6))
"""From low to high."""

STATES = {"complete": (BLUE, "o"), "pruned": (FAINT, "v"), "failed": (ORANGE, "x"), "running": (GREEN, "s")}
"""State of a trial -> its colour and matplotlib's marker."""

VARIABLES = {light: f"var(--{role})" for role, (light, _) in ROLES.items()}
"""Light value -> the CSS variable that stands for its role."""


def declarations(*, dark: bool) -> str:
    """The roles as CSS custom properties, for one theme."""
    return " ".join(f"--{role}: {values[dark]};" for role, values in ROLES.items())


WIDTH = 880
"""Of a figure over the whole column, in CSS pixels; one unit of the SVG is one pixel there."""

_POINTS_PER_INCH = 72

_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "hpo",
    "text.parse_math": False,  # a class may be called $x$
    "axes.unicode_minus": True,
    "font.size": 12,
    "axes.labelsize": 12,
    "axes.labelcolor": MUTED,
    "axes.labelpad": 8,
    "axes.edgecolor": LINE,
    "axes.linewidth": 1,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
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


def draw(name: str, size: tuple[int, int], label: str, paint: Callable[[Figure], None]) -> str:
    """What `paint` draws on a figure of `size` (width, height) in CSS pixels, as an `<svg>` element.

    `name` keeps its ids apart from those of other figures; `label` says what is seen, for who cannot see it.
    """
    with mpl.rc_context(_STYLE), warnings.catch_warnings():  # type: ignore[arg-type]
        # The reader's fonts draw the text; matplotlib's own only measures it, and need not know every script.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(size[0] / _POINTS_PER_INCH, size[1] / _POINTS_PER_INCH))
        figure.patch.set_visible(False)
        paint(figure)
        written = io.BytesIO()
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(written, format="svg", metadata=nothing, transparent=True)
    return _inline(written.getvalue().decode(), name, size, label)


def plain_axes(figure: Figure) -> Axes:
    """The figure's one pair of axes."""
    axes: Axes = figure.subplots()
    return axes


def legend_above(axes: Axes, columns: int = 6) -> None:
    """A legend in one line above the axes, at the left."""
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1.0), ncols=columns, borderaxespad=0, borderpad=0.3, handlelength=1.4,
        columnspacing=1.8, handletextpad=0.6,
    )  # fmt: skip


def _inline(text: str, name: str, size: tuple[int, int], label: str) -> str:
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
    """The style with the page's colours in place of light ones and without a font of its own."""
    text = re.sub(r"font-family: [^;\"]*;?\s*", "", style.group())
    return re.sub(r"#[0-9a-f]{6}", lambda colour: VARIABLES.get(colour.group(), colour.group()), text)


def _named(body: str, name: str) -> str:
    """Ids that something refers to get the figure's name before them, so that no two on the page are equal."""
    referred = set(re.findall(r'(?:url\(#|href="#)([\w.-]+)', body))
    body = re.sub(r' id="([\w.-]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in referred else "", body)
    return re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", body)
