"""Looks at test parts: who measured which model on which test part, for all who use a database."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import text

from storage.database import Database

_WRITE = text(
    "INSERT INTO hpo_openings (key, test, opening) VALUES (:key, :test, CAST(:opening AS jsonb)) "
    "ON CONFLICT (key) DO UPDATE SET opening = EXCLUDED.opening"
)
_READ = text("SELECT opening FROM hpo_openings WHERE test = :test ORDER BY opening ->> 'date'")


def write_opening(db: Database, opening: Mapping[str, Any]) -> None:
    """Write the record of one look, or its result into its record: `date`, `command`, `data`, `model` and `test`
    together identify it.

    Raises StorageError where the tables are of an earlier version of hpo.
    """
    db.require_schema()
    key = "|".join(str(opening[name]) for name in ("date", "command", "data", "model", "test"))
    values = {"key": key, "test": opening["test"], "opening": json.dumps(dict(opening))}
    with db.engine.begin() as connection:
        connection.execute(_WRITE, values)


def read_openings(db: Database, test: str) -> list[dict[str, Any]]:
    """Records of all looks at the test part with the digest `test`, in order of their dates; as `write_opening`."""
    db.require_schema()
    with db.engine.connect() as connection:
        return [dict(row) for row in connection.execute(_READ, {"test": test}).scalars()]
