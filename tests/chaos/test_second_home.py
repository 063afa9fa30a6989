"""SecondHome finds a lost row and a row that another program wrote."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from storage import open_database
from tests.chaos.second_home import SecondHome

pytestmark = pytest.mark.postgres


@pytest.fixture
def second(tmp_path: Path) -> Iterator[SecondHome]:
    second = SecondHome(tmp_path / "second")
    yield second
    second.close()


def test_a_home_that_is_copied_and_moved_keeps_all_rows(second: SecondHome) -> None:
    second.copy()
    second.move()
    assert second.broken() == []


def test_lost_rows_and_rows_of_others_are_reported(second: SecondHome, tmp_path: Path) -> None:
    with open_database(None, home=tmp_path / "second" / "home") as database:
        while True:
            with database.engine.begin() as connection:
                if connection.exec_driver_sql("DELETE FROM kept WHERE number = 3").rowcount:
                    connection.exec_driver_sql("INSERT INTO kept VALUES (-1)")
                    break
    lost, strange = second.broken()
    assert lost.startswith("1 of ")
    assert lost.endswith("rows of the second home are lost")
    assert strange == "1 rows in the second home were written by others"
