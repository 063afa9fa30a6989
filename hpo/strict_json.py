"""JSON that every reader takes: pure ASCII, so that no pipe can spoil it, and no NaN or Infinity, which JSON lacks."""

from __future__ import annotations

import json
from datetime import date
from math import isfinite
from pathlib import Path
from typing import Any


def strict_json(value: object, indent: int | None = None) -> str:
    """`value` as JSON text; a number that is not finite becomes null. TypeError for what JSON has no form for.

    Numpy's scalars and arrays, paths and dates are taken too.
    """
    return json.dumps(_finite(value), indent=indent, allow_nan=False, default=_plain)


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value


def _plain(value: Any) -> object:
    """What json asks for where it knows no form itself."""
    if isinstance(value, Path | date):
        return str(value)
    if hasattr(value, "tolist"):  # numpy, which this module need not import
        return _finite(value.tolist())
    raise TypeError(f"{type(value).__name__} has no form in JSON")
