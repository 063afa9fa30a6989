"""What was measured on this machine, remembered in `<cache>/speed.json`.

Several workers may write at once: each replaces the whole file atomically, and an entry that is lost in such a race is
only measured again.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

NAME = "speed.json"


def recall(cache: Path, key: str) -> Any:
    """The value under `key`; None where there is none or the file cannot be read."""
    return _entries(cache).get(key)


def remember(cache: Path, key: str, value: Any) -> None:
    """Put a JSON-ready value under `key`."""
    cache.mkdir(parents=True, exist_ok=True)
    content = json.dumps({**_entries(cache), key: value}, indent=1, sort_keys=True)
    with tempfile.NamedTemporaryFile("w", dir=cache, prefix=NAME, delete=False, encoding="utf-8") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    Path(file.name).replace(cache / NAME)


def _entries(cache: Path) -> dict[str, Any]:
    try:
        entries = json.loads((cache / NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return entries if isinstance(entries, dict) else {}
