"""One section of the page: values, and the template that lays them out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Section:
    """`templates/<key>.html` is included with `values` as `v`."""

    key: str
    title: str
    values: Mapping[str, Any] = field(default_factory=dict)
    missing: str = ""
    """One line on why there is nothing to show and how to get it; the template is not used then."""


@dataclass(frozen=True)
class Tile:
    """One of the key figures on top of the page."""

    name: str
    value: str
    detail: str = ""
