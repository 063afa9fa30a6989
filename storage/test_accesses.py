"""Accesses to test parts: which model was measured on which test part, shared by all users of a database."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import TextClause, text

from storage.database import Database

_WRITE = text(
    "INSERT INTO hpo_openings (key, test, opening) VALUES (:key, :test, CAST(:opening AS jsonb)) "
    "ON CONFLICT (key) DO UPDATE SET opening = EXCLUDED.opening"
)

_READ = text("SELECT opening FROM hpo_openings WHERE test = :test ORDER BY opening ->> 'date'")


_READ_OF_DATA = text("SELECT opening FROM hpo_openings WHERE opening ->> 'data' = :data ORDER BY opening ->> 'date'")


def write_opening(db: Database, opening: Mapping[str, Any]) -> None:
    """Write the record of one access, or replace the one with the same date, command, data, model and test.

    A database of an earlier version gets the missing table. Raises StorageError when the tables of studies are missing
    or cannot be changed.
    """
    db.require_schema()
    db.initialise()
    key = "|".join(str(opening[name]) for name in ("date", "command", "data", "model", "test"))
    values = {"key": key, "test": opening["test"], "opening": json.dumps(dict(opening))}
    with db.engine.begin() as connection:
        connection.execute(_WRITE, values)


def read_openings(db: Database, test: str) -> list[dict[str, Any]]:
    """Return the records of all accesses to the test part with the digest `test`, in order of their dates.

    A database of an earlier version has none, and is not changed. Raises StorageError when there are no tables.
    """
    return _read(db, _READ, {"test": test})


def read_openings_of_data(db: Database, data: str) -> list[dict[str, Any]]:
    """Return the records of all accesses to test parts of the data set with the fingerprint `data`, as above."""
    return _read(db, _READ_OF_DATA, {"data": data})


def _read(db: Database, query: TextClause, values: Mapping[str, str]) -> list[dict[str, Any]]:
    db.require_schema()
    if not db.is_initialised():
        return []
    with db.engine.connect() as connection:
        return [dict(row) for row in connection.execute(query, dict(values)).scalars()]
