"""The files of a comparison or an ablation, JSON and CSV among them; each is written atomically."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hpo.errors import UsageError
from hpo.files import write_file
from hpo.spreadsheet import CsvRows


def check_outputs(out: Path | None) -> None:
    """Raise UsageError unless files may be written to the folder `out`; call it before the work, too."""
    if out is None:
        return
    there = next(place for place in (out, *out.absolute().parents) if place.exists())
    if not there.is_dir():
        raise UsageError(f"--out {out}: {there} is a file; name a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UsageError(f"--out {out}: {there} may not be written to; name another folder")


def write_outputs(out: Path, files: Mapping[str, bytes]) -> None:
    """Write `files` into the folder `out`, made if missing; each replaces a file of its name, others stay."""
    out.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_file(out / name, content)


def to_json(values: Mapping[str, Any]) -> bytes:
    """Return indented JSON in UTF-8."""
    return (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode()


def to_csv(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Return a line for each row under a header with the keys of the first; None is an empty field.

    Text that a spreadsheet would read as a formula is prefixed with an apostrophe: see `hpo.spreadsheet`.
    """
    rows = list(rows)
    text = io.StringIO(newline="")
    table = CsvRows(text)
    keys = list(rows[0]) if rows else []
    for cells in (keys, *([row[key] for key in keys] for row in rows)):
        table.write(cells)
    return text.getvalue().encode()
