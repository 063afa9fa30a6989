"""What the epochs of a space's phases add up to.

A run that does not say its epochs has those of its phases. Where all of these are fixed their sum is known, and the
space fixes it as `epochs`; such a sum follows its phases when one of them is changed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import cast

from search_spaces.conditions import Values
from search_spaces.errors import SpaceError
from search_spaces.fields import PHASE_FIELDS, Scalar, in_order, phase_of
from search_spaces.phases import apportioned


def phase_numbers(fields: Iterable[str]) -> list[int]:
    """Numbers of the phases that the fields belong to, in order."""
    return sorted({phase_of(field) for field in fields} - {0})


def with_sum(fixed: Values, open_fields: Collection[str]) -> dict[str, Scalar]:
    """`fixed` with `epochs`: what it or a dimension says, else the sum of the phases' epochs where all are fixed."""
    total = _sum(fixed, open_fields)
    if total is None or "epochs" in fixed or "epochs" in open_fields:
        return dict(fixed)
    return in_order({**fixed, "epochs": total})


def without_sum(fixed: Values, open_fields: Collection[str], changed: Iterable[str]) -> dict[str, Scalar]:
    """`fixed` without `epochs`, where these are the sum of phases and the epochs of one are among the `changed`."""
    follows = any(phase_of(field) and field.endswith(".epochs") for field in changed)
    if not follows or _sum(fixed, open_fields) != fixed.get("epochs"):
        return dict(fixed)
    return {name: value for name, value in fixed.items() if name != "epochs"}


def check_given(given: Iterable[str], fixed: Values, open_fields: Collection[str]) -> None:
    """Raise SpaceError for what is given for the run and set by each phase, and for epochs that scaling would change.

    `given` are names of fields that have just been fixed; `fixed` holds them all.
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
    """The sum of the phases' epochs; None where there are no phases, or one whose epochs are not fixed."""
    epochs = [fixed.get(f"phase{number}.epochs") for number in phase_numbers([*fixed, *open_fields])]
    return sum(cast("list[int]", epochs)) if epochs and None not in epochs else None
