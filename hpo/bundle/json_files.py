"""Read and write the JSON files of a bundle; every fault is a BundleError of one line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpo.errors import BundleError
from hpo.strict_json import strict_json


def json_text(values: Mapping[str, Any]) -> str:
    """Return `values` as the text of a JSON file, with names as they are written: the file is UTF-8."""
    return strict_json(values, indent=2, ascii_only=False) + "\n"


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in the file `path`."""
    return parse_json(read_bytes(path), path)


def parse_json(content: bytes, source: Path) -> dict[str, Any]:
    """Return the JSON object that `content`, which was read from `source`, holds."""
    try:
        # Earlier versions of hpo wrote NaN and Infinity, which JSON lacks; they are read as null.
        values = json.loads(content, parse_constant=lambda _: None)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{source} is not valid JSON ({error}); copy or export the bundle again") from None
    if not isinstance(values, dict):
        raise BundleError(f"{source} must hold a JSON object; copy or export the bundle again")
    return values


def read_bytes(path: Path) -> bytes:
    """Return the content of a bundle's file."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, IsADirectoryError):
        raise BundleError(f"{path.parent} is not a bundle: it has no {path.name}") from None
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error.strerror}); copy or export the bundle again") from None
