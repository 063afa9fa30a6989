"""Every value that a field can have in a space."""

from __future__ import annotations

from search_spaces.conditions import Dimensions, Values
from search_spaces.dimensions import Choice, Dimension, Float
from search_spaces.fields import Scalar, default
from search_spaces.phased import phase_numbers
from search_spaces.rules import ranked


def reach(field: str, dimensions: Dimensions, fixed: Values) -> list[Scalar]:
    """The values in ascending order, of a range of floats both ends; None in a phase: what the run has."""
    if field in fixed:
        return [fixed[field]]
    variants = dimensions.get(field, ())
    # Where every variant has a condition none of them may exist.
    values = set() if any(not variant.when for variant in variants) else _otherwise(field, dimensions, fixed)
    return list(ranked(values.union(*(_values(variant) for variant in variants))))


def _otherwise(field: str, dimensions: Dimensions, fixed: Values) -> set[Scalar]:
    """What the field has where no dimension gives it: its default, but the phases' sum for the epochs of the run."""
    phases = phase_numbers([*fixed, *dimensions]) if field == "epochs" else []
    sums = {0}
    for phase in phases:
        # None: the phase does not exist in every trial.
        epochs = [int(value or 0) for value in reach(f"phase{phase}.epochs", dimensions, fixed)]
        sums = {total + more for total in sums for more in epochs}
    return {total or default(field) for total in sums}


def _values(dimension: Dimension) -> set[Scalar]:
    if isinstance(dimension, Choice):
        return set(dimension.choices)
    if isinstance(dimension, Float):
        return {dimension.low, dimension.high}
    return set(range(dimension.low, dimension.high + 1, dimension.step or 1))
