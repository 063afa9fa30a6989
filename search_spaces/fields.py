"""The fields of TrialConfig as a space sees them: which there are, what kind of value each holds, what a text means."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from difflib import get_close_matches
from typing import TypeAlias, cast

from search_spaces.config import TrialConfig
from search_spaces.errors import SpaceError

Scalar: TypeAlias = str | int | float | bool | None

FIELDS: tuple[str, ...] = tuple(TrialConfig.model_fields)
"""Names of the fields in order of declaration; the order in which a space lists and suggests its dimensions."""


def kind(field: str) -> type[int] | type[float] | None:
    """`int` or `float` for a numeric field, None for every other: only a choice can vary those."""
    annotation = TrialConfig.model_fields[field].annotation
    if annotation is int:
        return int
    return float if annotation is float else None


def one_of(name: object, names: Iterable[str], key: str, noun: str = "key") -> str:
    """`name`, when it is among `names`; else SpaceError at `key`, which suggests the nearest."""
    names = list(names)
    if isinstance(name, str) and name in names:
        return name
    close = get_close_matches(str(name), names, n=1)
    hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(names) or 'none'}"
    raise SpaceError(f"{key}: no such {noun}; {hint}")


def canonical(field: str, value: object, key: str) -> Scalar:
    """`value` in the type of the field; SpaceError at `key` when TrialConfig refuses it.

    Stricter than TrialConfig in one way: a bool is not taken for a number, nor is anything but a finite number.
    """
    if isinstance(value, bool) and kind(field):
        raise SpaceError(f"{key} is {value!r}, but must be a number")
    try:
        config = TrialConfig.from_dict({field: value})
    except SpaceError as error:
        raise SpaceError(f"{key}{str(error).removeprefix(field)}") from None
    typed = cast(Scalar, getattr(config, field))
    if isinstance(typed, float) and not math.isfinite(typed):
        raise SpaceError(f"{key} is {value!r}, but must be finite")
    return typed


def plain(value: Scalar) -> str:
    """The value as a space file would have it."""
    return value if isinstance(value, str) else json.dumps(value)


def parse_value(field: str, text: str) -> Scalar:
    """The value that `text` means for `field`, as in `--set field=text`; `null` is None where the field may be None."""
    one_of(field, FIELDS, field)
    if text == "null" and TrialConfig.model_fields[field].default is None:
        return None
    return canonical(field, text, field)
