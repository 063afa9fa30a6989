"""The page of a report: one HTML file without scripts and without external references, made of sections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from hpo import __version__
from hpo.figures import charts as palette
from hpo.report import wording


@dataclass(frozen=True)
class Section:
    """`templates/<key>.html` is included with `values` as `v`."""

    key: str
    title: str
    values: Mapping[str, Any] = field(default_factory=dict)
    missing: str = ""
    """A line that says why there is no content and how to get it; the template is not used then."""


@dataclass(frozen=True)
class Tile:
    """One of the key figures on top of the page."""

    name: str
    value: str
    detail: str = ""


MOST_BYTES = 8_000_000
"""Upper bound of the size of a page, since charts and images are limited in number and size."""


@dataclass(frozen=True)
class Page:
    """The content of the page, from top to bottom."""

    title: str
    kind: str
    """The kind of thing that the title names: study, bundle."""
    subtitle: str
    tiles: Sequence[Tile]
    sections: Sequence[Section]
    made: datetime
    notes: Sequence[str] = ()
    """Lines under the key figures that readers should see before the details."""


def render(page: Page) -> str:
    """Return the page as HTML. All text is escaped, except for charts, which `hpo.figures.charts` makes."""
    return _environment().get_template("page.html").render(
        page=page, version=__version__, light=palette.declarations(dark=False), dark=palette.declarations(dark=True),
    )  # fmt: skip


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("hpo.report"), autoescape=select_autoescape(["html"]), undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "fixed": lambda number, digits=4: f"{number:.{digits}f}",
        "percent": wording.percent,
        "confidence": wording.confidence,
        "signed": lambda number, digits=3: f"{number:+.{digits}f}".replace("-", "−"),
        "grouped": lambda number: f"{number:,}",
        "printable": wording.printable,
        "short": wording.shortened,
        "counted": wording.counted,
    }
    return environment
