"""Looks at test parts in the database: written, completed, and read by test part."""

from __future__ import annotations

import pytest

from storage import Database, read_openings, write_opening

pytestmark = pytest.mark.postgres


def opening(date: str, test: str = "t", **changes: object) -> dict[str, object]:
    values = {"date": date, "command": "compare", "data": "d", "test": test, "model": "m", "accuracy": None}
    return {**values, **changes}


def test_looks_are_read_by_test_part_in_order(database: Database) -> None:
    database.initialise()
    later, earlier, other = opening("2026-02"), opening("2026-01", model="é"), opening("2026-03", test="u")
    for one in (later, earlier, other):
        write_opening(database, one)
    assert read_openings(database, "t") == [earlier, later]
    assert read_openings(database, "nothing") == []


def test_a_result_completes_its_look(database: Database) -> None:
    database.initialise()
    write_opening(database, opening("2026-01"))
    write_opening(database, opening("2026-01", accuracy=0.5))
    assert read_openings(database, "t") == [opening("2026-01", accuracy=0.5)]


def test_looks_at_two_test_parts_in_one_instant_are_two(database: Database) -> None:
    database.initialise()
    for test in ("t", "u"):
        write_opening(database, opening("2026-01", test=test))
    assert [len(read_openings(database, test)) for test in ("t", "u")] == [1, 1]
