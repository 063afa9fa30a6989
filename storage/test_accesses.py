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

    Studies of an earlier version get the table that they lack. Raises StorageError where the tables of studies are
    missing or cannot be changed.
    """
    db.require_schema()
    db.initialise()
    key = "|".join(str(opening[name]) for name in ("date", "command", "data", "model", "test"))
    values = {"key": key, "test": opening["test"], "opening": json.dumps(dict(opening))}
    with db.engine.begin() as connection:
        connection.execute(_WRITE, values)


def read_openings(db: Database, test: str) -> list[dict[str, Any]]:
    """Records of all looks at the test part with the digest `test`, in order of their dates.

    Studies of an earlier version have none, and are left as they are. Raises StorageError where there are no tables.
    """
    db.require_schema()
    if not db.is_initialised():
        return []
    with db.engine.connect() as connection:
        return [dict(row) for row in connection.execute(_READ, {"test": test}).scalars()]
