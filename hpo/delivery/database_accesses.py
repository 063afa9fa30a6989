"""Test accesses recorded in a database, for the ledger of a bundle, which knows no database."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from hpo.bundle.stored_metrics import Opening
from storage import Database, StorageError, read_openings, write_opening


class DatabaseAccesses:
    """The `SharedAccesses` of a database.

    The first failure to reach the database is reported; after it the database is left out, as HOME and the bundle have
    the records too.
    """

    def __init__(self, connect: Callable[[], AbstractContextManager[Database]], warn: Callable[[str], None]) -> None:
        """`connect` gives the database for the length of a block; `warn` gets the line that reports a failure."""
        self._connect: Callable[[], AbstractContextManager[Database]] | None = connect
        self._warn = warn

    def write(self, opening: Opening) -> None:
        """Write a record, or its result into the record that is there."""
        self._use(lambda db: write_opening(db, opening))

    def read(self, test: str) -> list[dict[str, Any]]:
        """Return the records of the test part with the digest `test`."""
        found: list[dict[str, Any]] = []
        self._use(lambda db: found.extend(read_openings(db, test)))
        return found

    def _use(self, act: Callable[[Database], None]) -> None:
        if self._connect is None:
            return
        try:
            with self._connect() as db:
                act(db)
        except StorageError as error:
            self._connect = None
            self._warn(f"accesses to the test part are counted without the database: {error}")
