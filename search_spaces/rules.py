"""The rules of a range, of a list of choices and of a condition; each function gives the value in its one form.

Every message of a SpaceError begins with the key that broke the rule.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from types import MappingProxyType
from typing import Any, TypeAlias

from search_spaces.errors import SpaceError
from search_spaces.fields import Scalar, canonical, in_order, known, plain

Condition: TypeAlias = Mapping[str, tuple[Scalar, ...]]
"""Parent field -> the values of which it must hold one; every parent must. Empty: always."""


def real(value: object, key: str) -> float:
    """`value` as a finite float, or SpaceError at `key`."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise SpaceError(f"{key} is {value!r}, but must be a number")
    if not abs(value) <= sys.float_info.max:
        raise SpaceError(f"{key} is {value!r}, but must be finite")
    return float(value)


def whole(value: object, key: str) -> int:
    """`value` as an int (1e3 is one), or SpaceError at `key`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value % 1 != 0:
        raise SpaceError(f"{key} is {value!r}, but must be a whole number")
    return int(value)


def check_range(low: float, high: float, log: object, step: float | None) -> None:
    """Raise SpaceError unless low < high, and `log` and `step` suit them and each other."""
    if not isinstance(log, bool):
        raise SpaceError(f"log is {log!r}, but must be true or false")
    if low >= high:
        hint = "; a single value belongs under fixed" if low == high else ""
        raise SpaceError(f"low is {low!r}, but must be < high ({high!r}){hint}")
    if log and low <= 0:
        raise SpaceError(f"low is {low!r}, but must be > 0 where log is true")
    if step is not None:
        _check_step(low, high, log, step)


def _check_step(low: float, high: float, log: bool, step: float) -> None:
    if log:
        raise SpaceError(f"step is {step!r}, but must be left out where log is true")
    if step <= 0:
        raise SpaceError(f"step is {step!r}, but must be > 0")
    # In decimal, as written: 1.0 - 0.4 is a multiple of 0.1 to whoever wrote the file.
    if (Decimal(str(high)) - Decimal(str(low))) % Decimal(str(step)):
        raise SpaceError(f"step is {step!r}, but must lead from low ({low!r}) to high ({high!r}) in whole steps")


def listed(values: object, key: str) -> tuple[Scalar, ...]:
    """A non-empty tuple of scalars without repetition, or SpaceError at `key`."""
    if not isinstance(values, list | tuple):
        raise SpaceError(f"{key} is {values!r}, but must be a list")
    if not values:
        raise SpaceError(f"{key} is empty, but must hold at least one value")
    for i, value in enumerate(values):
        if not isinstance(value, str | int | float | None):
            raise SpaceError(f"{key}[{i}] is {value!r}, but must be text, a number, true, false or null")
        if value in values[:i]:
            raise SpaceError(f"{key}[{i}] is {value!r}, but must differ from those before it")
    return tuple(values)


def condition(when: object) -> Condition:
    """The condition in its one form: parents in the order of the fields, values sorted and in the parent's type."""
    if not isinstance(when, Mapping):
        raise SpaceError(f"when is {when!r}, but must be a mapping of dimensions to values")
    parents = in_order({known(parent, f"when.{parent}", "dimension"): values for parent, values in when.items()})
    return MappingProxyType({parent: _allowed(parent, values) for parent, values in parents.items()})


def _allowed(parent: str, values: object) -> tuple[Scalar, ...]:
    key = f"when.{parent}"
    several = values if isinstance(values, list | tuple) else [values]
    typed = {canonical(parent, value, key) for value in listed(several, key)}
    return ranked(typed)


def in_words(when: Condition) -> str:
    """As «optimiser is adam, adamw or nadam, and loss is focal»; empty for no condition."""
    return ", and ".join(f"{parent} is {either(allowed)}" for parent, allowed in when.items())


def either(values: Sequence[Scalar]) -> str:
    """As «adam, adamw or nadam»."""
    *others, last = (plain(value) for value in values)
    return f"{', '.join(others)} or {last}" if others else last


def ranked(values: Iterable[Scalar]) -> tuple[Scalar, ...]:
    """Values of one field in ascending order, None before everything else."""
    return tuple(sorted(values, key=_none_first))


def _none_first(value: Scalar) -> tuple[bool, Any]:
    return value is not None, value
