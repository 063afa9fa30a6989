"""Cells of a CSV: no text is a formula, numbers stay, and the text can be restored."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo.experiments.outputs import to_csv
from hpo.spreadsheet import CsvRows, plain_cell, plain_row

SIGNS = "=+-@\t\r\n\uff1d\uff0b\uff0d\uff20"


@pytest.mark.parametrize("sign", SIGNS)
def test_text_that_would_be_a_formula_gets_an_apostrophe(sign: str) -> None:
    assert plain_cell(f"{sign}SUM(A1)") == f"'{sign}SUM(A1)"
    assert plain_cell(sign) == f"'{sign}"


@pytest.mark.parametrize("text", ["", "cat", "a=1", "1-2", " =1", "-1", "+1", "-.5", "-1e-05", "-3.", "2024-11-28"])
def test_other_text_and_numbers_that_are_names_stay(text: str) -> None:
    assert plain_cell(text) == text


@pytest.mark.parametrize("text", ["-1+1", "+1;2", "-1 ", "-\u0661", "-inf"])
def test_text_that_only_begins_like_a_number_is_not_a_number(text: str) -> None:
    assert plain_cell(text) == f"'{text}"


def test_numbers_stay_numbers() -> None:
    assert plain_row([-1, -0.5, None, True, float("-inf")]) == [-1, -0.5, None, True, float("-inf")]


@given(st.text())
def test_the_text_can_be_had_back(text: str) -> None:
    written = str(plain_cell(text))
    assert written.removeprefix("'") == text
    assert plain_cell(text) == text or written[0] == "'"


@given(st.lists(st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0")), min_size=2, max_size=4))
def test_rows_are_read_as_they_were_written(cells: list[str]) -> None:
    text = io.StringIO()
    rows = CsvRows(text)
    rows.write(cells)
    rows.write(["next", "row"])
    read = list(csv.reader(io.StringIO(text.getvalue(), newline="")))
    assert read == [plain_row(cells), ["next", "row"]]


def test_every_table_follows_the_rule() -> None:
    found = to_csv([{"=key": "=1", "loss": -0.5, "notes": "@x"}, {"=key": "a", "loss": None, "notes": ""}])
    assert found.decode() == "'=key,loss,notes\n'=1,-0.5,'@x\na,,\n"
