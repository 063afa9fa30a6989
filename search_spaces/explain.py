"""A space in words: rows for a table, and a JSON-ready description."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from search_spaces.config import TrialConfig
from search_spaces.dimensions import Dimension
from search_spaces.fields import FIELDS, plain
from search_spaces.rules import in_words
from search_spaces.space import SearchSpace


@dataclass(frozen=True)
class Row:
    """One line of the table: a field, or one variant of an open field."""

    field: str
    state: Literal["open", "fixed", "default"]
    values: str
    """A range as «0.001 to 0.1, log», choices as «adamw | sgd», or the one value."""
    condition: str
    """As «optimiser is adamw»; empty when the field always exists."""
    meaning: str
    """What the field is."""


def rows(space: SearchSpace) -> list[Row]:
    """Every field of TrialConfig in its order: open ones by variant, fixed ones, and the rest with their defaults."""
    return [row for name in FIELDS for row in _rows(space, name)]


def describe(space: SearchSpace) -> dict[str, Any]:
    """JSON-ready: name, summary, seed; `open`: field -> its variants in words; `fixed`: field -> value."""
    return {
        "name": space.name,
        "summary": space.summary,
        "seed": space.seed,
        "open": {name: [_in_words(v) for v in variants] for name, variants in space.dimensions.items()},
        "fixed": dict(space.fixed),
    }


def _in_words(variant: Dimension) -> str:
    return f"{variant}, when {in_words(variant.when)}" if variant.when else str(variant)


def _rows(space: SearchSpace, name: str) -> Iterator[Row]:
    info = TrialConfig.model_fields[name]
    meaning = info.description or ""
    for variant in space.dimensions.get(name, ()):
        yield Row(name, "open", str(variant), in_words(variant.when), meaning)
    if name in space.fixed:
        yield Row(name, "fixed", plain(space.fixed[name]), "", meaning)
    elif name not in space.dimensions:
        yield Row(name, "default", plain(info.default), "", meaning)
