"""A space in words: rows for a table, and a JSON-ready description."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from search_spaces.dimensions import Dimension, in_words
from search_spaces.fields import PHASE_FIELDS, RUN_FIELDS, default, meaning, phase_of, plain
from search_spaces.space import SearchSpace


@dataclass(frozen=True)
class SpaceRow:
    """One line of the table: a field, or one variant of an open field."""

    field: str
    state: Literal["open", "fixed", "default"]
    values: str
    """A range as «0.001 to 0.1, log», choices as «adamw | sgd», or the one value."""
    condition: str
    """As «optimiser is adamw»; empty when the field always exists."""
    meaning: str
    """The field's description."""

    @property
    def phase(self) -> int:
        """The number of the phase that the field belongs to, 0 for the run."""
        return phase_of(self.field)


def rows(space: SearchSpace) -> list[SpaceRow]:
    """Return every field of the run in its order: open ones by variant, fixed ones, and the rest with their defaults.

    The fields that the space sets in a phase follow, phase by phase; a phase inherits the others from the run.
    """
    of_phases = [f"phase{number}.{field}" for number in space.phases for field in PHASE_FIELDS]
    named = [*RUN_FIELDS, *(name for name in of_phases if name in space.fixed or name in space.dimensions)]
    return [row for name in named for row in _rows(space, name)]


def describe(space: SearchSpace) -> dict[str, Any]:
    """Return JSON-ready name, summary and seed; `open`: field -> its variants in words; `fixed`: field -> value."""
    return {
        "name": space.name,
        "summary": space.summary,
        "seed": space.seed,
        "open": {name: [_in_words(v) for v in variants] for name, variants in space.dimensions.items()},
        "fixed": dict(space.fixed),
    }


def _in_words(variant: Dimension) -> str:
    return f"{variant}, when {in_words(variant.when)}" if variant.when else str(variant)


def _rows(space: SearchSpace, name: str) -> Iterator[SpaceRow]:
    for variant in space.dimensions.get(name, ()):
        yield SpaceRow(name, "open", str(variant), in_words(variant.when), meaning(name))
    if name in space.fixed:
        yield SpaceRow(name, "fixed", plain(space.fixed[name]), "", meaning(name))
    elif name not in space.dimensions:
        yield SpaceRow(name, "default", plain(default(name)), "", meaning(name))
