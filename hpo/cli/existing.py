"""Opening a study that is there, for the commands that look at it or tell its workers something."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hpo.cli.connect import connected

if TYPE_CHECKING:
    import optuna

    from storage import Database


@contextmanager
def existing(storage: str | None, home: Path, study: str) -> Iterator[tuple[Database, optuna.Study]]:
    """The database and the study in it; StudyError where there is none, StorageError for tables of another version."""
    with connected(storage, home) as db:
        from storage import open_study

        found = open_study(db, study)
        db.require_schema()
        yield db, found
