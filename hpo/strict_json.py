"""JSON that every reader accepts: without NaN and Infinity, which JSON lacks, and ASCII unless it goes to a file."""

from __future__ import annotations

import json
from datetime import date
from math import isfinite
from pathlib import Path
from typing import Any


def strict_json(value: object, indent: int | None = None, *, ascii_only: bool = True) -> str:
    """Return `value` as JSON text; a number that is not finite becomes null.

    NumPy's scalars and arrays, paths and dates are accepted too; TypeError for what JSON has no form for. `ascii_only`
    escapes other characters, which a pipe of another encoding would spoil.
    """
    return json.dumps(_finite(value), indent=indent, allow_nan=False, default=_plain, ensure_ascii=ascii_only)


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value


def _plain(value: Any) -> object:
    """Return a form that json knows for a value whose type it does not know."""
    if isinstance(value, Path | date):
        return str(value)
    if hasattr(value, "tolist"):  # A NumPy value; this module does not import NumPy.
        return _finite(value.tolist())
    raise TypeError(f"{type(value).__name__} has no form in JSON")
