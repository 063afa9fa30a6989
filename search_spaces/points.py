"""Known-good points of a space: values of some open dimensions, which are tried before anything is sampled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from search_spaces.conditions import Dimensions, Values, existing, parameter_name
from search_spaces.dimensions import Dimension, in_words
from search_spaces.errors import SpaceError
from search_spaces.fields import Scalar, canonical, known


def checked(point: object, key: str, dimensions: Dimensions, fixed: Values) -> dict[str, Scalar]:
    """Return the values of `point` for open dimensions, typed and in order; SpaceError at `key` for an impossible one.

    A point may restate a fixed value, and may omit values, which are then sampled. Each dimension that it names must
    exist under its own values. `dimensions` are in order, parents first.
    """
    if not isinstance(point, Mapping):
        raise SpaceError(f"{key} is {point!r}, but must be a mapping of dimensions to values")
    prefix = f"{key}." if key else ""
    given = {known(name, f"{prefix}{name}"): value for name, value in point.items()}
    typed = {name: canonical(name, value, f"{prefix}{name}") for name, value in given.items()}
    for name, value in typed.items():
        if name not in dimensions:
            _check_fixed(name, value, f"{prefix}{name}", fixed)
    values = {name: typed[name] for name in dimensions if name in typed}
    for name, value in values.items():
        _check_open(value, f"{prefix}{name}", dimensions[name], {**fixed, **values})
    return values


def _check_fixed(name: str, value: Scalar, key: str, fixed: Values) -> None:
    if name not in fixed:
        raise SpaceError(f"{key}: this space neither searches nor fixes it; leave it out")
    if value != fixed[name]:
        raise SpaceError(f"{key} is {value!r}, but {name} is fixed to {fixed[name]!r}")


def _check_open(value: Scalar, key: str, variants: Sequence[Dimension], values: Values) -> None:
    variant = existing(variants, values)
    possible = variants if variant is None else [variant]
    if not any(one.contains(value) for one in possible):
        raise SpaceError(f"{key} is {value!r}, but must be in {'; or in '.join(map(_range, possible))}")
    if variant is None:
        cases = "; or ".join(in_words(v.when) for v in variants)
        parents = ", ".join(dict.fromkeys(parent for v in variants for parent in v.when if parent not in values))
        way_out = f"give {parents} too" if parents else "leave it out, or give other values"
        raise SpaceError(f"{key} exists only when {cases}; {way_out}")


def _range(variant: Dimension) -> str:
    """Return `0.001 to 0.01, log`, with the condition of the variant where it has one."""
    return f"{variant} when {in_words(variant.when)}" if variant.when else str(variant)


def parameters(point: Values, dimensions: Dimensions, fixed: Values) -> dict[str, Any]:
    """Return the optuna parameters that a checked point sets."""
    values = {**fixed, **point}
    named: dict[str, Any] = {}
    for name, value in point.items():
        variant = existing(dimensions[name], values)
        if variant is not None:
            named[parameter_name(name, variant, dimensions[name])] = value
    return named


def check_parameters(params: Values, dimensions: Dimensions, fixed: Values) -> None:
    """Raise SpaceError for optuna parameters that a trial of this space cannot take.

    Optuna ignores an unknown name silently, and accepts a value out of its range.
    """
    named = {
        parameter_name(name, variant, variants): (name, variant)
        for name, variants in dimensions.items()
        for variant in variants
    }
    values = {**fixed, **{named[key][0]: value for key, value in params.items() if key in named}}
    for key, value in params.items():
        if key not in named:
            if key in fixed:
                raise SpaceError(f"{key} is fixed to {fixed[key]!r} in this study, so no trial can be given another")
            raise SpaceError(f"{key} is no parameter of this study; they are {', '.join(named)}")
        name, variant = named[key]
        if any(parent in values and values[parent] not in allowed for parent, allowed in variant.when.items()):
            raise SpaceError(f"{key} exists only when {in_words(variant.when)}")
        if not variant.contains(canonical(name, value, key)):
            raise SpaceError(f"{key} is {value!r}, but must be in {variant}")


def distinct(points: Sequence[Values]) -> list[Values]:
    """Return the points without empty and repeated ones."""
    kept: list[Values] = []
    for point in points:
        if point and point not in kept:
            kept.append(point)
    return kept


def contradicted(point: Values, fixed: Values) -> bool:
    """Return whether a fixed value differs from the point's."""
    return any(fixed.get(name, value) != value for name, value in point.items())


def carried_over(point: Values, old: tuple[Dimensions, Values], new: tuple[Dimensions, Values]) -> dict[str, Scalar]:
    """Return the values of `point` that stay valid if the space changes from `old` to `new`: (dimensions, fixed).

    A value is dropped if its dimension is no longer open or cannot give it, and if a parent of its dimension has
    changed: a learning rate that is good for AdamW is no evidence for SGD.
    """
    (old_dimensions, old_fixed), (dimensions, fixed) = old, new
    before = {**old_fixed, **point}
    after: dict[str, Scalar] = dict(fixed)
    kept: dict[str, Scalar] = {}
    for name in dimensions:
        if name not in point:
            continue
        was = existing(old_dimensions[name], before)
        now = existing(dimensions[name], after)
        same = was is not None and all(after.get(parent) == before[parent] for parent in was.when)
        if same and now is not None and now.contains(point[name]):
            kept[name] = after[name] = point[name]
    return kept
