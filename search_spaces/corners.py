"""The configurations in the corners of a space: every dimension at its lowest or its highest value.

Rules between fields (AugMix's consistency needs AugMix, a run has an epoch for each phase) are TrialConfig's. Trying
the corners before there is a study shows a combination that breaks one without knowing any of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from search_spaces.conditions import Dimensions, Values, existing
from search_spaces.config import TrialConfig
from search_spaces.dimensions import Choice, Dimension
from search_spaces.errors import SpaceError
from search_spaces.fields import Scalar, plain
from search_spaces.rules import ranked

Corner: TypeAlias = Callable[[Dimension], Scalar]


def lowest(dimension: Dimension) -> Scalar:
    """The least value of a range; of choices too, None before all others."""
    return _ends(dimension)[0]


def highest(dimension: Dimension) -> Scalar:
    """The greatest value."""
    return _ends(dimension)[-1]


def filled(dimensions: Dimensions, fixed: Values, wanted: Values, corner: Corner) -> dict[str, Scalar]:
    """A value for every field that is fixed or exists: the wanted one where its dimension gives it, else the corner's.

    `dimensions` are in order, parents first.
    """
    values = dict(fixed)
    for name, variants in dimensions.items():
        variant = existing(variants, values)
        if variant is not None:
            values[name] = wanted[name] if name in wanted and variant.contains(wanted[name]) else corner(variant)
    return values


def check_corners(dimensions: Dimensions, fixed: Values, points: Sequence[Values]) -> None:
    """Raise SpaceError when a corner, one step along an edge from the lowest or the highest, or a point is none.

    That is not every combination, and it need not be: rules between fields join two of them.
    """
    TrialConfig.from_dict(filled(dimensions, fixed, {}, lowest))
    for name, value, corner in _edges(dimensions):
        try:
            TrialConfig.from_dict(filled(dimensions, fixed, {name: value}, corner))
        except SpaceError as error:
            raise SpaceError(
                f"{error}; open dimensions can meet so where {name} is {plain(value)}: "
                "give one a condition (when) or another range"
            ) from None
    for i, point in enumerate(points):
        try:
            TrialConfig.from_dict(filled(dimensions, fixed, point, lowest))
        except SpaceError as error:
            raise SpaceError(f"points[{i}]: {error}") from None


def _edges(dimensions: Dimensions) -> Iterator[tuple[str, Scalar, Corner]]:
    """Each end of each dimension, the others all at their lowest, then all at their highest."""
    for corner in (lowest, highest):
        for name, variants in dimensions.items():
            for value in dict.fromkeys(end for variant in variants for end in _ends(variant)):
                yield name, value, corner


def _ends(dimension: Dimension) -> tuple[Scalar, ...]:
    if isinstance(dimension, Choice):
        return ranked(dimension.choices)
    return dimension.low, dimension.high
