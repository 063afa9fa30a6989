"""Accesses to test parts in the database: written, completed, and read by test part."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from storage import Database, StorageError, open_database, read_openings, write_opening

pytestmark = pytest.mark.postgres


def opening(date: str, test: str = "t", **changes: object) -> dict[str, object]:
    values = {"date": date, "command": "compare", "data": "d", "test": test, "model": "m", "accuracy": None}
    return {**values, **changes}


def test_accesses_are_read_by_test_part_in_order(database: Database) -> None:
    database.initialise()
    later, earlier, other = opening("2026-02"), opening("2026-01", model="é"), opening("2026-03", test="u")
    for one in (later, earlier, other):
        write_opening(database, one)
    assert read_openings(database, "t") == [earlier, later]
    assert read_openings(database, "nothing") == []


def test_a_result_completes_its_access(database: Database) -> None:
    database.initialise()
    write_opening(database, opening("2026-01"))
    write_opening(database, opening("2026-01", accuracy=0.5))
    assert read_openings(database, "t") == [opening("2026-01", accuracy=0.5)]


def test_accesses_to_two_test_parts_at_one_moment_are_two(database: Database) -> None:
    database.initialise()
    for test in ("t", "u"):
        write_opening(database, opening("2026-01", test=test))
    assert [len(read_openings(database, test)) for test in ("t", "u")] == [1, 1]


def make_earlier(database: Database) -> None:
    """Make the tables as they were before accesses were recorded."""
    database.initialise()
    with database.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE hpo_openings; UPDATE hpo_schema SET version = 2")


def test_a_database_of_an_earlier_version_has_no_accesses(database: Database) -> None:
    make_earlier(database)
    assert read_openings(database, "t") == []
    assert not database.is_initialised()


def test_the_first_access_creates_the_table_in_a_database_of_an_earlier_version(database: Database) -> None:
    make_earlier(database)
    write_opening(database, opening("2026-01"))
    assert read_openings(database, "t") == [opening("2026-01")]
    assert database.is_initialised()


@pytest.mark.parametrize("use", [lambda db: read_openings(db, "t"), lambda db: write_opening(db, opening("2026-01"))])
def test_a_database_without_studies_is_refused_and_not_changed(
    empty_url: str, tmp_path: Path, use: Callable[[Database], object]
) -> None:
    with open_database(empty_url, home=tmp_path) as database:
        with pytest.raises(StorageError):
            use(database)
        assert not database.is_initialised()
