"""The colours of the report: roles, each with a light and a dark value.

Figures are drawn in the light values; `drawing` turns these into CSS variables, so that one SVG follows the reader's
theme. The hues are those of Okabe and Ito (2008), told apart with any colour vision, darkened or lightened until they
stand out from the page; the ramp runs in lightness too. No meaning hangs on a colour alone: markers differ as well.
"""

from __future__ import annotations

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
