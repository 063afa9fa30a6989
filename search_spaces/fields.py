"""The fields of a space: their names, order, kinds of values, and how text is read.

They are the fields of TrialConfig, with the fields of each phase in place of `phases`: `phase1.learning_rate`,
`phase2.unfreeze_depth`, …. A field of a phase has the type of the run's field of that name, or is None and inherits.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from functools import cache
from typing import Any, TypeAlias, TypeVar, cast

from pydantic import BaseModel, ValidationError, create_model

from search_spaces.config import PHASE_KEY, Phase, TrialConfig
from search_spaces.errors import SpaceError, rule_in_words

Scalar: TypeAlias = str | int | float | bool | None

Value = TypeVar("Value")

RUN_FIELDS: tuple[str, ...] = tuple(name for name in TrialConfig.model_fields if name != "phases")
"""The fields of the run as a whole, in order of declaration."""

PHASE_FIELDS: tuple[str, ...] = tuple(Phase.model_fields)
"""The fields that a phase may set, in order of declaration."""


def known(name: object, key: str, noun: str = "key") -> str:
    """Return `name` if it is a field of the run or of a phase; else SpaceError at `key`, which suggests the nearest."""
    if isinstance(name, str) and (name in RUN_FIELDS or _is_phase_field(name)):
        return name
    raise SpaceError(f"{key}: {_why_unknown(str(name), noun)}")


def phase_of(field: str) -> int:
    """Return the number of the phase that the field belongs to, 0 for the run."""
    match = PHASE_KEY.fullmatch(field)
    return int(match[1]) if match else 0


def rank(field: str) -> tuple[int, int]:
    """Return the sort key of a field: the run's fields first, then phase by phase, each in order of declaration."""
    names = PHASE_FIELDS if phase_of(field) else RUN_FIELDS
    return phase_of(field), names.index(_bare(field))


def in_order(values: Mapping[str, Value]) -> dict[str, Value]:
    """Return the same values sorted by the rank of their fields."""
    return {name: values[name] for name in sorted(values, key=rank)}


def kind(field: str) -> type[int] | type[float] | None:
    """Return `int` or `float` for a numeric field, else None: only a choice can vary the others."""
    annotation = TrialConfig.model_fields[_bare(field)].annotation
    if annotation is int:
        return int
    return float if annotation is float else None


def default(field: str) -> Scalar:
    """Return the value of a field that is neither fixed nor open; None in a phase, which inherits from the run."""
    return None if phase_of(field) else TrialConfig.model_fields[field].default


def meaning(field: str) -> str:
    """Return the description of the field."""
    fields = Phase.model_fields if phase_of(field) else TrialConfig.model_fields
    return fields[_bare(field)].description or ""


def one_of(name: object, names: Iterable[str], key: str, noun: str = "key") -> str:
    """Return `name` if it is one of `names`; else SpaceError at `key`, which suggests the nearest."""
    names = list(names)
    if isinstance(name, str) and name in names:
        return name
    hint = _near(str(name), names) or f"there are {', '.join(names) or 'none'}"
    raise SpaceError(f"{key}: no such {noun}; {hint}")


def canonical(field: str, value: object, key: str) -> Scalar:
    """Return `value` in the type of the field; SpaceError at `key` if TrialConfig refuses it in every configuration.

    Stricter than TrialConfig: a bool is not read as a number, and a number must be finite.
    """
    if value is None and _may_be_none(field):
        return None
    if isinstance(value, bool) and kind(field):
        raise SpaceError(f"{key} is {value!r}, but must be a number")
    if kind(field) and _is_not_finite(value):
        raise SpaceError(f"{key} is {value}, but must be finite")
    try:
        holder = _holder(_bare(field)).model_validate({"value": value})
    except ValidationError as error:
        rule = rule_in_words(error.errors(include_url=False)[0])
        raise SpaceError(f"{key} is {value!r}, but {rule}") from None
    typed = cast(Scalar, vars(holder)["value"])
    if isinstance(typed, float) and not math.isfinite(typed):  # a field that may be None has no kind
        raise SpaceError(f"{key} is {value}, but must be finite")
    return typed


def _is_not_finite(value: object) -> bool:
    """Return whether `value`, a number or its text, is nan or infinite."""
    try:
        return isinstance(value, str | float) and not math.isfinite(float(value))
    except ValueError:
        return False


def plain(value: Scalar) -> str:
    """Return the value as a space file writes it."""
    return value if isinstance(value, str) else json.dumps(value)


def parse_value(field: str, text: str) -> Scalar:
    """Read `text` as a value of `field`, as in `--set field=text`; `null` is None if the field may be None."""
    known(field, field)
    if text == "null" and _may_be_none(field):
        return None
    return canonical(field, text, field)


@cache
def _holder(name: str) -> type[BaseModel]:
    """Make a model of one field, `value`, with the rules of this field of TrialConfig and no rules between fields."""
    info = TrialConfig.model_fields[name]
    fields: dict[str, Any] = {"value": (info.annotation, info)}
    return create_model("Holder", **fields)


def _may_be_none(field: str) -> bool:
    if phase_of(field):
        return _bare(field) != "epochs"
    return TrialConfig.model_fields[field].default is None


def _bare(field: str) -> str:
    """Return the name without its phase."""
    return field.rpartition(".")[2]


def _is_phase_field(name: str) -> bool:
    phase, field = phase_of(name), _bare(name)
    return phase > 0 and field in PHASE_FIELDS and name == f"phase{phase}.{field}"


def _why_unknown(name: str, noun: str) -> str:
    if name == "phases":
        return f"no such {noun}; give the fields of each phase, as phase1.epochs and phase1.learning_rate"
    phase, _, field = name.partition(".")
    if re.fullmatch(r"phase[0-9]+", phase):
        return f"no such {noun}; {_hint_in_phase(phase, field)}"
    names = [*RUN_FIELDS, *(f"phase{n}.{field}" for n in range(1, 10) for field in PHASE_FIELDS)]
    rest = f"there are {', '.join(RUN_FIELDS)}, and those of phases, as phase1.epochs"
    return f"no such {noun}; {_near(name, names) or rest}"


def _hint_in_phase(phase: str, field: str) -> str:
    if not phase_of(f"{phase}.epochs"):
        return "phases are numbered from 1 to 99"
    close = get_close_matches(field, PHASE_FIELDS, n=1)
    return f"did you mean {phase}.{close[0]}?" if close else f"a phase has {', '.join(PHASE_FIELDS)}"


def _near(text: str, names: Collection[str]) -> str:
    """Return the nearest name as a question, or an empty text."""
    close = get_close_matches(text, names, n=1)
    return f"did you mean {close[0]}?" if close else ""
