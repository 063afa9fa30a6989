"""What was found out about this machine, remembered in `<cache>/speed.json`.

Several workers may write at once: each replaces the whole file atomically, and an entry that is lost in such a race is
only found out again.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

NAME = "speed.json"


def recall(cache: Path, key: str) -> Any:
    """The value under `key`; None where there is none or the file cannot be read."""
    return _entries(cache).get(key)


def remember(cache: Path, key: str, value: Any) -> None:
    """Put a JSON-ready value under `key`. Where that cannot be written, a warning says so and nothing else happens."""
    content = json.dumps({**_entries(cache), key: value}, indent=1, sort_keys=True)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        _replace(cache / NAME, content)
    except OSError as error:
        log.warning("%s is not remembered: %s cannot be written: %s", key, cache / NAME, error.strerror)


def settle(cache: Path, key: str, value: Any) -> Any:
    """`value`, remembered under `key`; or what another process has put there meanwhile, so that all go the same way."""
    known = recall(cache, key)
    if known is not None:
        return known
    remember(cache, key, value)
    return value


def _replace(path: Path, content: str) -> None:
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=NAME, delete=False, encoding="utf-8") as file:
        try:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).replace(path)
        except OSError:
            Path(file.name).unlink(missing_ok=True)
            raise


def _entries(cache: Path) -> dict[str, Any]:
    try:
        entries = json.loads((cache / NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return entries if isinstance(entries, dict) else {}
