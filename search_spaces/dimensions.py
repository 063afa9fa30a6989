"""Dimensions of a search space: Float, Int and Choice, each for one field, with a condition on other fields.

Each checks its values when it is made: a range has low < high, `log` and `step` fit it, choices do not repeat.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from decimal import Decimal
from types import MappingProxyType
from typing import Any, ClassVar, Protocol, TypeAlias

from search_spaces.errors import SpaceError
from search_spaces.fields import Scalar, canonical, in_order, kind, known, one_of, plain

Condition: TypeAlias = Mapping[str, tuple[Scalar, ...]]
"""Parent field -> its allowed values; every parent must hold one of them. Empty: the dimension always exists."""


def real(value: object, key: str) -> float:
    """Return `value` as a finite float; SpaceError at `key` for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise SpaceError(f"{key} is {value!r}, but must be a number")
    if not abs(value) <= sys.float_info.max:
        raise SpaceError(f"{key} is {value!r}, but must be finite")
    return float(value)


def whole(value: object, key: str) -> int:
    """Return `value` as an int (1e3 is one); SpaceError at `key` for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value % 1 != 0:
        raise SpaceError(f"{key} is {value!r}, but must be a whole number")
    return int(value)


def check_range(low: float, high: float, log: object, step: float | None) -> None:
    """Raise SpaceError unless low < high, and `log` and `step` fit the range and each other."""
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
    # In decimal, as written in the file, where 1.0 - 0.4 is a multiple of 0.1.
    if (Decimal(str(high)) - Decimal(str(low))) % Decimal(str(step)):
        raise SpaceError(f"step is {step!r}, but must lead from low ({low!r}) to high ({high!r}) in whole steps")


def listed(values: object, key: str) -> tuple[Scalar, ...]:
    """Return a non-empty tuple of scalars without repetition; SpaceError at `key` for anything else."""
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
    """Normalise a condition: parents in the order of the fields, values sorted and in the parent's type."""
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
    """Return a condition as «optimiser is adam, adamw or nadam, and loss is focal»; empty without one."""
    return ", and ".join(f"{parent} is {either(allowed)}" for parent, allowed in when.items())


def either(values: Sequence[Scalar]) -> str:
    """Return values as «adam, adamw or nadam»."""
    *others, last = (plain(value) for value in values)
    return f"{', '.join(others)} or {last}" if others else last


def ranked(values: Iterable[Scalar]) -> tuple[Scalar, ...]:
    """Sort the values of one field in ascending order, None first."""
    return tuple(sorted(values, key=_none_first))


def _none_first(value: Scalar) -> tuple[bool, Any]:
    return value is not None, value


class Trial(Protocol):
    """The methods of a trial that a space calls; `optuna.Trial` and `optuna.trial.FixedTrial` have them."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """Return a float in [low, high]."""

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """Return an int in [low, high]."""

    def suggest_categorical(self, name: str, choices: Sequence[Scalar]) -> Scalar:
        """Return one of the choices."""


@dataclass(frozen=True)
class Float:
    """A real number in [low, high]: uniform, or uniform in its logarithm (`log`), or on a grid from low by `step`."""

    type: ClassVar[str] = "float"
    low: float
    high: float
    log: bool = False
    step: float | None = None
    when: Condition = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        low, high = real(self.low, "low"), real(self.high, "high")
        step = None if self.step is None else real(self.step, "step")
        check_range(low, high, self.log, step)
        _freeze(self, low=low, high=high, step=step, when=condition(self.when))

    def fitted(self, name: str) -> Float:
        """Return this dimension if all its values are valid for the field `name`; else SpaceError."""
        if kind(name) is not float:
            raise _misfit(self.type, name)
        canonical(name, self.low, "low")
        canonical(name, self.high, "high")
        return self

    def contains(self, value: Scalar) -> bool:
        """Return whether the dimension can give `value`."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            return False
        steps = (value - self.low) / self.step if self.step else 0.0
        return abs(steps - round(steps)) < 1e-8

    def suggest(self, trial: Trial, name: str) -> float:
        """Ask `trial` for a value under the parameter `name`."""
        return trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values, which `dimension_from_dict` reads."""
        return _to_dict(self)

    def __str__(self) -> str:
        return _range(self)


@dataclass(frozen=True)
class Int:
    """A whole number in [low, high]: uniform, or uniform in its logarithm (`log`), or on a grid from low by `step`."""

    type: ClassVar[str] = "int"
    low: int
    high: int
    log: bool = False
    step: int | None = None
    when: Condition = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        low, high = whole(self.low, "low"), whole(self.high, "high")
        step = None if self.step in (None, 1) else whole(self.step, "step")
        check_range(low, high, self.log, step)
        _freeze(self, low=low, high=high, step=step, when=condition(self.when))

    def fitted(self, name: str) -> Int:
        """Return this dimension if all its values are valid for the field `name`; else SpaceError."""
        if kind(name) is None:
            raise _misfit(self.type, name)
        canonical(name, self.low, "low")
        canonical(name, self.high, "high")
        return self

    def contains(self, value: Scalar) -> bool:
        """Return whether the dimension can give `value`."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            return False
        return (value - self.low) % (self.step or 1) == 0

    def suggest(self, trial: Trial, name: str) -> int:
        """Ask `trial` for a value under the parameter `name`."""
        return trial.suggest_int(name, self.low, self.high, step=self.step or 1, log=self.log)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values, which `dimension_from_dict` reads."""
        return _to_dict(self)

    def __str__(self) -> str:
        return _range(self)


@dataclass(frozen=True)
class Choice:
    """One of some values, without an order between them."""

    type: ClassVar[str] = "choice"
    choices: tuple[Scalar, ...]
    when: Condition = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        _freeze(self, choices=listed(self.choices, "choices"), when=condition(self.when))

    def fitted(self, name: str) -> Choice:
        """Return this dimension with choices in the type of the field; SpaceError if one is invalid."""
        typed = (canonical(name, value, f"choices[{i}]") for i, value in enumerate(self.choices))
        return replace(self, choices=tuple(typed))

    def contains(self, value: Scalar) -> bool:
        """Return whether the dimension can give `value`."""
        return value in self.choices

    def suggest(self, trial: Trial, name: str) -> Scalar:
        """Ask `trial` for a value under the parameter `name`."""
        return trial.suggest_categorical(name, self.choices)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values, which `dimension_from_dict` reads."""
        return _to_dict(self)

    def __str__(self) -> str:
        return " | ".join(_number(value) for value in self.choices)


Dimension: TypeAlias = Float | Int | Choice

_KINDS: Mapping[str, type[Dimension]] = {cls.type: cls for cls in (Float, Int, Choice)}


def dimension_from_dict(values: Mapping[str, Any]) -> Dimension:
    """Read the dimension that `{"type": …, …}` declares; SpaceError names a wrong, unknown or missing key."""
    given = dict(values)
    name = given.pop("type", None)
    if not isinstance(name, str) or name not in _KINDS:
        raise SpaceError(f"type is {name!r}, but must be {', '.join(_KINDS)}")
    keys = [f.name for f in fields(_KINDS[name])]
    for key in given:
        one_of(key, keys, str(key), f"key of a dimension of type {name}")
    for key in keys[: 1 if name == "choice" else 2]:
        if key not in given:
            raise SpaceError(f"{key} is missing, but a dimension of type {name} needs it")
    return _KINDS[name](**given)


def _to_dict(dimension: Dimension) -> dict[str, Any]:
    """Return type and fields, without defaults, so that an option added later changes no fingerprint."""
    values: dict[str, Any] = {"type": dimension.type}
    if isinstance(dimension, Choice):
        values["choices"] = list(dimension.choices)
    else:
        values |= {"low": dimension.low, "high": dimension.high}
        values |= {"log": True} if dimension.log else {}
        values |= {"step": dimension.step} if dimension.step else {}
    if dimension.when:
        values["when"] = {parent: list(allowed) for parent, allowed in dimension.when.items()}
    return values


def _range(dimension: Float | Int) -> str:
    """Return a range as «0.001 to 0.1, log»."""
    text = f"{_number(dimension.low)} to {_number(dimension.high)}"
    if dimension.step:
        text += f" by {_number(dimension.step)}"
    return f"{text}, log" if dimension.log else text


def _number(value: Scalar) -> str:
    return f"{value:g}" if isinstance(value, float) else plain(value)


def _freeze(dimension: Dimension, **values: object) -> None:
    for name, value in values.items():
        object.__setattr__(dimension, name, value)


def _misfit(name: str, field_name: str) -> SpaceError:
    wanted = "int or choice" if kind(field_name) is int else "choice"
    return SpaceError(f"type is {name!r}, but {field_name} needs {wanted}")
