"""Conditions between dimensions: which dimension exists for which values of the others.

A field may have several variants, of which at most one exists at a time. A variant exists if each parent that its
condition names is fixed, or is open and exists itself, and holds one of the allowed values. A field without an existing
variant keeps the default of TrialConfig.

The epochs of a run depend on those of its phases: a run that does not set `epochs` has the sum of its phases. If all of
them are fixed, the space fixes the sum as `epochs` and updates it when a phase changes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from graphlib import CycleError, TopologicalSorter
from itertools import combinations
from typing import TypeAlias, cast

from search_spaces.config import apportioned
from search_spaces.dimensions import Condition, Dimension, Float, either
from search_spaces.errors import SpaceError, within
from search_spaces.fields import PHASE_FIELDS, Scalar, in_order, phase_of, plain, rank

Values: TypeAlias = Mapping[str, Scalar]

Dimensions: TypeAlias = Mapping[str, tuple[Dimension, ...]]


def existing(variants: Sequence[Dimension], values: Values) -> Dimension | None:
    """Return the variant that exists if the fields hold `values`; a parent that is not in `values` does not exist."""
    return next((variant for variant in variants if _holds(variant.when, values)), None)


def _holds(when: Condition, values: Values) -> bool:
    return all(parent in values and values[parent] in allowed for parent, allowed in when.items())


def parameter_name(field: str, variant: Dimension, variants: Sequence[Dimension]) -> str:
    """Return the name of the optuna parameter of one of the `variants` of `field`.

    `learning_rate` for the only variant; `learning_rate[adamw]` where the condition has one parent, and
    `learning_rate[loss=focal,optimiser=adamw]` where it has several.
    """
    if len(variants) == 1:
        return field
    if len(variant.when) == 1:
        (allowed,) = variant.when.values()
        return f"{field}[{_joined(allowed)}]"
    parts = (f"{parent}={_joined(allowed)}" for parent, allowed in sorted(variant.when.items()))
    return f"{field}[{','.join(parts)}]"


def _joined(values: Sequence[Scalar]) -> str:
    return "|".join(plain(value) for value in values)


def variant_key(field: str, index: int, count: int) -> str:
    """Return the key of a variant in a file: `learning_rate`, or `learning_rate[1]` if there are several."""
    return field if count == 1 else f"{field}[{index}]"


def ordered(dimensions: Dimensions) -> dict[str, tuple[Dimension, ...]]:
    """Sort parents before children, otherwise in the order of the fields; SpaceError names a cycle."""
    graph = {
        field: sorted({parent for variant in variants for parent in variant.when}, key=rank)
        for field, variants in in_order(dimensions).items()
    }
    try:
        order = tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        cycle = error.args[1]
        raise SpaceError(f"dimensions.{cycle[-1]}.when: {' needs '.join(reversed(cycle))}, which is a cycle") from None
    return {field: dimensions[field] for field in order if field in dimensions}


def check(dimensions: Dimensions, fixed: Values) -> None:
    """Raise SpaceError unless every condition can hold and the variants of each field exclude each other."""
    for field, variants in dimensions.items():
        for i, variant in enumerate(variants):
            for parent, allowed in variant.when.items():
                with within(f"dimensions.{variant_key(field, i, len(variants))}"):
                    _check_condition(parent, allowed, dimensions, fixed)
        _check_exclusion(field, variants)


def _check_condition(parent: str, allowed: tuple[Scalar, ...], dimensions: Dimensions, fixed: Values) -> None:
    key = f"when.{parent}"
    if parent in fixed:
        if fixed[parent] not in allowed:
            raise SpaceError(f"{key} is {either(allowed)}, but {parent} is fixed to {fixed[parent]!r}")
        return
    if parent not in dimensions:
        names = ", ".join(dimensions)
        raise SpaceError(f"{key}: {parent} is neither fixed nor one of the dimensions ({names})")
    if any(isinstance(variant, Float) for variant in dimensions[parent]):
        raise SpaceError(f"{key}: {parent} is of type float, but a condition needs an int or a choice")
    for value in allowed:
        if not takes(dimensions[parent], value):
            raise SpaceError(f"{key} is {value!r}, but {parent} cannot take that value")


def _check_exclusion(field: str, variants: Sequence[Dimension]) -> None:
    for (i, one), (j, other) in combinations(enumerate(variants), 2):
        if not any(set(one.when[p]).isdisjoint(other.when[p]) for p in one.when.keys() & other.when.keys()):
            raise SpaceError(
                f"dimensions.{field}: variants {i} and {j} could exist at the same time; "
                "give them conditions on one dimension, with different values"
            )
    if len({parameter_name(field, variant, variants) for variant in variants}) < len(variants):
        raise SpaceError(f"dimensions.{field}: two variants have conditions that read the same")


def takes(variants: Sequence[Dimension], value: Scalar) -> bool:
    """Whether one of the variants can give `value`."""
    return any(variant.contains(value) for variant in variants)


def check_dependants(dimensions: Dimensions, values: Values, replaced: Collection[str]) -> None:
    """Raise SpaceError if a field is fixed to a value that its dimension cannot give, and other fields depend on it.

    Those fields would have no range, unless they are in `values` or `replaced` themselves.
    """
    for field, value in values.items():
        if field not in dimensions or takes(dimensions[field], value):
            continue
        dependants = [n for n in _children(dimensions, field) if n not in values and n not in replaced]
        if dependants:
            raise SpaceError(
                f"{field} is {value!r}, which the space does not try, so it has no {' and no '.join(dependants)} "
                f"for it: fix {'that' if len(dependants) == 1 else 'those'} too"
            )


def _children(dimensions: Dimensions, parent: str) -> list[str]:
    return [field for field, variants in dimensions.items() if any(parent in v.when for v in variants)]


def simplified(dimensions: Dimensions, fixed: Values) -> dict[str, tuple[Dimension, ...]]:
    """Return the dimensions, in order, without the conditions that `fixed` and the parents' ranges already decide.

    Removed are conditions that a fixed value meets, variants whose condition can never hold, and values that a parent
    cannot take.
    """
    kept: dict[str, tuple[Dimension, ...]] = {}
    for field, variants in ordered(dimensions).items():
        possible = tuple(variant for given in variants for variant in _simplified(given, kept, fixed))
        if possible:
            kept[field] = possible
    return kept


def _simplified(variant: Dimension, parents: Dimensions, fixed: Values) -> Iterator[Dimension]:
    """Yield the variant with the rest of its condition; nothing if the condition can never hold."""
    when: dict[str, tuple[Scalar, ...]] = {}
    for parent, allowed in variant.when.items():
        if parent in fixed:
            if fixed[parent] not in allowed:
                return
            continue
        when[parent] = tuple(value for value in allowed if takes(parents.get(parent, ()), value))
        if not when[parent]:
            return
    yield replace(variant, when=when)


def phase_numbers(fields: Iterable[str]) -> list[int]:
    """Return the numbers of the phases that the fields belong to, in order."""
    return sorted({phase_of(field) for field in fields} - {0})


def with_sum(fixed: Values, open_fields: Collection[str]) -> dict[str, Scalar]:
    """Return `fixed` with `epochs`: its own or a dimension's, else the sum of the phases' epochs if all are fixed."""
    total = _sum(fixed, open_fields)
    if total is None or "epochs" in fixed or "epochs" in open_fields:
        return dict(fixed)
    return in_order({**fixed, "epochs": total})


def without_sum(fixed: Values, open_fields: Collection[str], changed: Iterable[str]) -> dict[str, Scalar]:
    """Return `fixed` without `epochs` if they are the sum of the phases and a phase's epochs are in `changed`."""
    follows = any(phase_of(field) and field.endswith(".epochs") for field in changed)
    if not follows or _sum(fixed, open_fields) != fixed.get("epochs"):
        return dict(fixed)
    return {name: value for name, value in fixed.items() if name != "epochs"}


def check_given(given: Iterable[str], fixed: Values, open_fields: Collection[str]) -> None:
    """Raise SpaceError for a value of the run that every phase overrides, and for epochs that scaling would change.

    `given` are the names of fields that have just been fixed; `fixed` holds all fixed values.
    """
    given, numbers = set(given), phase_numbers([*fixed, *open_fields])
    for name in given & set(PHASE_FIELDS) - {"epochs"}:
        own = [f"phase{number}.{name}" for number in numbers]
        if own and all(field in open_fields or fixed.get(field) is not None for field in own):
            raise SpaceError(f"{name} would change nothing, as every phase has its own; give {' or '.join(own)}")
    shares = {f"phase{number}.epochs": fixed.get(f"phase{number}.epochs") for number in numbers}
    if "epochs" in given and given & shares.keys() and None not in shares.values():
        _check_epochs(given, cast("int", fixed["epochs"]), cast("dict[str, int]", shares))


def _check_epochs(given: Collection[str], total: int, shares: Mapping[str, int]) -> None:
    for (name, share), epochs in zip(shares.items(), apportioned(total, list(shares.values())), strict=True):
        if name in given and share != epochs:
            raise SpaceError(
                f"{name} is {share}, but of {total} epochs its share is {epochs}: give those of all phases"
            )


def _sum(fixed: Values, open_fields: Iterable[str]) -> int | None:
    """Return the sum of the phases' epochs; None without phases, or if the epochs of one are not fixed."""
    epochs = [fixed.get(f"phase{number}.epochs") for number in phase_numbers([*fixed, *open_fields])]
    return sum(cast("list[int]", epochs)) if epochs and None not in epochs else None
